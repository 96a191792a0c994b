"""Class axes of which each view keeps only some classes.

Legend: V views (images), T classes, K kept classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Logit of a class that a view does not aggregate, and its probability.
REJECTED = -100.0
REJECTED_PROBABILITY = float(torch.tensor(REJECTED, device="cpu").sigmoid())


def take_classes(values: Tensor, kept: Tensor) -> Tensor:
    """`[V, T, ...]` at `[V, K]`: `[V, K, ...]`."""
    return torch.stack([view[index] for view, index in zip(values, kept, strict=True)])


def among_all(logits: Tensor, kept: Tensor, num_classes: int) -> Tensor:
    """Logits `[V, K, h, w]` of the classes `kept` `[V, K]` among all: `[V, T, h, w]`, `REJECTED` for the others."""
    full = logits.new_full((len(logits), num_classes, *logits.shape[2:]), REJECTED)
    return full.scatter(1, kept[..., None, None].expand_as(logits), logits)
