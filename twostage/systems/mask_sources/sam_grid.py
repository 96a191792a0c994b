"""SAM asked at a grid of points: what "segment everything" does, one mask per point, painted small to large."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from twostage.foundation.sam import Sam
from twostage.foundation.sam_pictures import fitted, masks_at_size, sam_input
from twostage.systems.mask_sources.contract import paint

# A mask is stable where it stays the same when its threshold moves by this much (Kirillov et al., ICCV 2023, appendix B).
_OFFSET = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamGrid:
    """Single masks of positive points in the middles of a square grid's cells. A `MaskSource`.

    As CorrCLIP paints them: in order of growing area, so that the larger of two masks is seen where they overlap.

    Attributes:
        side: points per side.
        min_iou, min_stability: masks with less are left out.
        batch: points decoded together.
    """

    sam: Sam
    side: int
    min_iou: float
    min_stability: float
    batch: int

    @torch.no_grad()
    def __call__(self, picture: Tensor, file_name: str | None) -> Tensor:
        """See `MaskSource`."""
        pixels = picture.permute(1, 2, 0).cpu().numpy()
        size = (pixels.shape[0], pixels.shape[1])
        device = self.sam.prompt_encoder.no_mask_embed.weight.device
        inside = fitted(size, self.sam.side)
        embedding = self.sam(sam_input(pixels, self.sam.side).to(device))
        kept = []
        for points in self._points(inside, device).split(self.batch):
            logits, scores = self.sam.decode_single(embedding, self.sam.embed_points(points), self.sam.no_mask())
            logits = masks_at_size(logits, inside=inside, size=size, side=self.sam.side)[:, 0]
            good = (scores[:, 0] > self.min_iou) & (stability(logits) > self.min_stability)
            kept.append((logits > 0)[good])
        masks = torch.cat(kept)
        areas = masks.flatten(1).sum(dim=1)
        return paint(masks, areas.argsort(stable=True)).cpu()

    def _points(self, inside: tuple[int, int], device: torch.device) -> Tensor:
        """`[side * side, 2]`, x and y in pixels of the square."""
        at = (torch.arange(self.side, device=device) + 0.5) / self.side
        xy = torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1).flatten(0, 1)
        return xy * torch.tensor([inside[1], inside[0]], device=device)


def stability(logits: Tensor) -> Tensor:
    """IoU `[P]` of each mask `[P, H, W]` at a higher and at a lower threshold; 0 for empty masks."""
    high = (logits > _OFFSET).flatten(1).sum(dim=1)
    low = (logits > -_OFFSET).flatten(1).sum(dim=1)
    return high / low.clamp(min=1)


def networks(source: object) -> list[nn.Module]:
    """Networks that a mask source runs, for moving them to a device."""
    return [value for value in vars(source).values() if isinstance(value, nn.Module)]
