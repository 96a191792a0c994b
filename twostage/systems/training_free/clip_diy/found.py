"""FOUND: how likely each pixel shows an object, from DINO's keys (Simeoni et al., CVPR 2023, section 3.3).

Legend: H x W the picture, W' the tower's width, h x w its grid.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from twostage.clip.statistics import PixelUnits
from twostage.foundation.loading import IMAGENET_STATISTICS
from twostage.foundation.vit import FoundationVit


class Found(nn.Module):
    """One convolution of a single pixel on a frozen DINO's keys."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(width, 1, kernel_size=1)
        self.units = PixelUnits(IMAGENET_STATISTICS)

    def forward(self, tower: FoundationVit, picture: Tensor) -> Tensor:
        """Probabilities `[H, W]` of a picture `[3, H, W]` on 0..255, padded with zeros to whole patches."""
        height, width = picture.shape[-2:]
        patch = tower.shape.patch
        padded = F.pad(self.units(picture), (0, -width % patch, 0, -height % patch))
        x, grid = tower.last_input(padded[None])
        keys = tower.patch_map(tower.last_qkv(x).chunk(3, dim=-1)[1], grid)
        logits = F.interpolate(self.head(keys), size=tuple(padded.shape[-2:]), mode="bilinear", align_corners=False)
        return logits[0, 0, :height, :width].sigmoid()


def fitted(objectness: Tensor, size: tuple[int, int]) -> Tensor:
    """A map `[H, W]` at another size, nearest neighbours, as published."""
    return F.interpolate(objectness[None, None], size=size, mode="nearest")[0, 0]
