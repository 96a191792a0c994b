"""How OVSeg joins the generator's class scores with CLIP's (OVSeg, section 3.1; zsseg, Xu et al., ECCV 2022, section 3.4).

Legend: B images, Q proposals, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def geometric_ensemble(
    generator: Tensor, clip: Tensor, valid: Tensor, weight: float, seen: Tensor | None = None
) -> Tensor:
    """Class weights `[B, Q, C]`: generator^(1 - w) * clip^w, not normalised again.

    An empty proposal has no CLIP score and counts as clip = 1, so that its numbers grow. `weight` 0 means CLIP alone, and
    empty proposals are left out (rows of zeros); so w = 0 is not the limit of small w, which is the generator alone.

    Args:
        generator: probabilities `[B, Q, C]`, those of C + 1 classes without void.
        clip: probabilities `[B, Q, C]`.
        valid: bool `[B, Q]`, False for empty proposals.
        seen: bool `[C]`, classes that the generator was trained on; for these the two swap their exponents (zsseg).
    """
    shown = valid[..., None]
    if weight == 0:
        return torch.where(shown, clip, 0)
    share = torch.full_like(clip[0, 0], weight)
    if seen is not None:
        share = torch.where(seen, 1 - share, share)
    return generator ** (1 - share) * torch.where(shown, clip, 1) ** share


def best_proposals(weights: Tensor, valid: Tensor, classes: int) -> Tensor:
    """`weights` `[B, Q, C]` with the rows of all proposals zeroed that are not the best of any of the first `classes`.

    OVSeg's free-vocabulary demo: each word takes the proposal that shows it most; what was taken votes with its whole row.
    """
    candidates = weights.masked_fill(~valid[..., None], -1)
    best = candidates[..., :classes].argmax(dim=1)
    picked = torch.zeros_like(valid).scatter(1, best, True)
    return torch.where((picked & valid)[..., None], weights, 0)
