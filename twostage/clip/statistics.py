"""Pixels in a network's units: less the mean, over the deviation that it was trained with.

A picture stays as it came, RGB on 0..255; whoever looks at it (CLIP, a backbone of its own, another frozen ViT) takes it in
its own units, as the published systems do, and nobody undoes another's normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from twostage.clip.keys import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD


class PixelStatistics(NamedTuple):
    """Mean and deviation of R, G and B on 0..255."""

    mean: Sequence[float]
    std: Sequence[float]

    def rounded(self) -> PixelStatistics:
        """255 times what single precision makes of the values on 0..1: OVSeg and SCAN round before they scale."""
        # On a CPU also where a model is built without memory ("meta").
        mean, std = (255 * torch.tensor([v / 255 for v in values], device="cpu") for values in self)
        return PixelStatistics(mean.tolist(), std.tolist())

    def colour(self, rgb: Sequence[float]) -> tuple[float, float, float]:
        """A colour (0..255) in these units, in single precision."""
        values, mean, std = (torch.tensor(v, device="cpu") for v in (list(rgb), *self))
        red, green, blue = ((values - mean) / std).tolist()
        return red, green, blue


CLIP_STATISTICS = PixelStatistics(CLIP_PIXEL_MEAN, CLIP_PIXEL_STD)


class PixelUnits(nn.Module):
    """From pixels on 0..255 to the units of `statistics`, which are not part of checkpoints."""

    mean: Tensor
    std: Tensor

    def __init__(self, statistics: PixelStatistics) -> None:
        super().__init__()
        for name, values in statistics._asdict().items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """`[..., 3, H, W]`, whole numbers or not, to floats of the same shape."""
        return (pixels - self.mean) / self.std


class Pictures(ImageList):
    """A batch as a network takes it, padded, and the pictures themselves for networks with other units.

    Attributes:
        tensor: `[B, 3, H, W]` normalised, then padded with zeros at the right and the bottom.
        image_sizes: (height, width) of each picture before padding.
        pixels: each picture `[3, H_i, W_i]`, RGB on 0..255.
    """

    def __init__(self, pixels: Sequence[Tensor], units: PixelUnits, size_divisibility: int = 0) -> None:
        """
        Args:
            size_divisibility: height and width of `tensor` are multiples of this.
        """
        padded = ImageList.from_tensors([units(picture) for picture in pixels], size_divisibility)
        super().__init__(padded.tensor, padded.image_sizes)
        self.pixels = list(pixels)
        self.size_divisibility = size_divisibility

    def in_units(self, units: PixelUnits) -> Pictures:
        """The same batch, padded alike, for another network."""
        return Pictures(self.pixels, units, self.size_divisibility)
