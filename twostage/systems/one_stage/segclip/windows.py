"""The windows of an image and the regions that the groups of all windows make of it.

Legend: N windows, K centres, Q = N K regions, H x W the padded image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.inference.sliding import TileGrid
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.systems.one_stage.segclip.encoder import ImageEncoding

# Shares of a pixel are handed over as logits; none is closer to 0 or 1 than this.
_EPS = 1e-7


class Windows(NamedTuple):
    """An image's windows: where they lie, their encodings, and the owner of each of their pixels, int64 `[N, h, w]`."""

    grid: TileGrid
    encoding: ImageEncoding
    owners: Tensor


def window_grid(canvas: tuple[int, int], window: tuple[int, int] | None) -> TileGrid:
    """Windows on an image of size `canvas`, for a (side, stride) in pixels; None: the image as one window."""
    if window is None:
        return TileGrid.whole(canvas)
    side, stride = window
    return TileGrid.covering(canvas, tile=(side, side), stride=(stride, stride))


def region_shares(windows: Windows, padded: tuple[int, int]) -> Tensor:
    """Share `[Q, H, W]` that each region has in each pixel: one over the number of windows there, or nothing."""
    grid, owners = windows.grid, windows.owners
    height, width = grid.tile
    centres = windows.encoding.groups.shape[1]
    shares = torch.zeros((len(grid), centres, *padded), device=owners.device)
    corners = [(top, left) for top in grid.tops for left in grid.lefts]
    for number, (top, left) in enumerate(corners):
        one_hot = F.one_hot(owners[number], centres).permute(2, 0, 1)
        shares[number, :, top : top + height, left : left + width] = one_hot.to(shares.dtype)
    rows, columns = grid.canvas
    shares[..., :rows, :columns] /= grid.coverage(slice(0, rows), owners.device)
    return shares.flatten(0, 1)


def region_prediction(images: Sequence[Windows], scores: Sequence[Tensor], geometry: Geometry) -> MaskPrediction:
    """The prediction of a batch from the class scores `[N, K, C]` of each image's groups.

    A pixel's scores are those of its group, averaged over the windows that see it; so regions and their scores are all
    there is to keep, however many the classes.
    """
    shares = [region_shares(windows, geometry.padded) for windows in images]
    regions = max(len(share) for share in shares)
    masks = torch.stack([F.pad(share, (0, 0, 0, 0, 0, regions - len(share))) for share in shares])
    class_weights = torch.stack([F.pad(s.flatten(0, 1), (0, 0, 0, regions - s[..., 0].numel())) for s in scores])
    # No region is void.
    class_logits = F.pad(class_weights.clamp(min=_EPS).log(), (0, 1), value=float("-inf"))
    return MaskPrediction(
        mask_logits=masks.logit(eps=_EPS),
        class_logits=class_logits,
        class_weights=class_weights,
        geometry=geometry,
        resize_scores=True,
    )
