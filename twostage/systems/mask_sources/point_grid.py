"""A network that makes masks of points, asked at a grid of them: what "segment everything" does, painted small to large."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from twostage.systems.mask_sources.contract import paint

# A mask is stable where it stays the same when its threshold moves by this much (Kirillov et al., ICCV 2023, appendix B).
_OFFSET = 1.0

# Points `[P, 2]` (x and y in 0..1 of the picture) to mask logits `[P, H, W]` at the picture's size and predicted IoUs `[P]`.
Prompter = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointGrid(abc.ABC):
    """Single masks of positive points in the middles of a square grid's cells. A `MaskSource`.

    As CorrCLIP paints them: in order of growing area, so that the larger of two masks is seen where they overlap.

    Attributes:
        side: points per side.
        min_iou, min_stability: masks with less are left out.
        batch: points decoded together.
    """

    side: int
    min_iou: float
    min_stability: float
    batch: int

    @abc.abstractmethod
    def prompter(self, picture: Tensor) -> Prompter:
        """What answers points of a picture `[3, H, W]` RGB uint8, which is encoded once."""

    @torch.no_grad()
    def __call__(self, picture: Tensor, file_name: str | None) -> Tensor:
        """See `MaskSource`."""
        ask = self.prompter(picture)
        kept = []
        for points in grid_points(self.side).split(self.batch):
            logits, scores = ask(points)
            good = (scores > self.min_iou) & (stability(logits) > self.min_stability)
            kept.append((logits > 0)[good])
        masks = torch.cat(kept)
        areas = masks.flatten(1).sum(dim=1)
        return paint(masks, areas.argsort(stable=True)).cpu()


def grid_points(side: int) -> Tensor:
    """`[side * side, 2]`, x and y in 0..1, row by row."""
    at = (torch.arange(side) + 0.5) / side
    return torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1).flatten(0, 1)


def stability(logits: Tensor) -> Tensor:
    """IoU `[P]` of each mask `[P, H, W]` at a higher and at a lower threshold; 0 for empty masks."""
    high = (logits > _OFFSET).flatten(1).sum(dim=1)
    low = (logits > -_OFFSET).flatten(1).sum(dim=1)
    return high / low.clamp(min=1)
