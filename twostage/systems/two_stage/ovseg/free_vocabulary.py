"""OVSeg's free-vocabulary demo: the user names few things, and what is none of them stays without a label."""

from __future__ import annotations

import torch
from torch import Tensor

# The rival of a single word; without one, every pixel of its proposals would be it.
OTHERS = "others"


def best_proposals(weights: Tensor, valid: Tensor, classes: int) -> Tensor:
    """`weights` `[B, Q, C]` with the rows of all proposals zeroed that are not the best of any of the first `classes`.

    Each word takes the proposal that shows it most; what was taken votes with its whole row. `valid` `[B, Q]` is False for
    empty proposals, which are never taken.
    """
    candidates = weights.masked_fill(~valid[..., None], -1)
    best = candidates[..., :classes].argmax(dim=1)
    picked = torch.zeros_like(valid).scatter(1, best, True)
    return torch.where((picked & valid)[..., None], weights, 0)
