"""Which classes an image keeps (ERR-Seg, Chen et al., 2025: redundancy-reduced hierarchical cost maps).

Every pixel of the finer cost map votes (`PixelVotes`); in training the classes that are there come first.

Legend: B images, T classes, K = min(slots, T) kept classes, P prompt templates, h x w grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twostage.inference.early_rejection import PixelVotes


def select_classes(cost: Tensor, slots: int, present: Sequence[Tensor] | None = None) -> Tensor:
    """Kept classes int64 `[B, K]`, ascending.

    Args:
        cost: `[B, T, P, h, w]`.
        slots: classes kept at most.
        present: of each image the classes that its labels hold, ascending; they come first, then the elected ones that are
            not among them. Where that is too long, its end is cut off: the elected of highest index first.
    """
    rule = PixelVotes(slots=min(slots, cost.shape[1]))
    elected = torch.stack([rule.kept([image]) for image in cost.detach().mean(dim=2)])
    if present is None:
        return elected
    return torch.stack([_present_first(*pair) for pair in zip(present, elected, strict=True)])


def present_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Classes that a label map holds, ascending; labels from `num_classes` on (ignored pixels) are none."""
    found = torch.unique(labels)
    return found[(found >= 0) & (found < num_classes)]


def _present_first(present: Tensor, elected: Tensor) -> Tensor:
    """As many as `elected`."""
    others = elected[~torch.isin(elected, present)]
    return torch.cat([present.to(elected), others])[: len(elected)]
