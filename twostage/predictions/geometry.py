"""Where a batch's predictions lie: the sizes that lead from a prediction's grid to each image and to the output.

Legend: h x w the prediction's grid, H x W an image in the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor

from twostage.inference.resampling import Resampler, Size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes (height, width) in pixels of a batch.

    Attributes:
        padded: of the batch tensor, which the grid covers.
        images: of each image inside it, before padding.
    """

    padded: Size
    images: Sequence[Size]

    @classmethod
    def of(cls, images: ImageList) -> Geometry:
        """Of predictions that cover the padded batch."""
        height, width = images.tensor.shape[-2:]
        return cls(padded=(height, width), images=[(h, w) for h, w in images.image_sizes])

    @classmethod
    def on_grid(cls, grid: Size, images: Sequence[Size]) -> Geometry:
        """Of a system that hands its grid to Detectron2's `sem_seg_postprocess` without resizing it first.

        The crop to the image's size then acts on the grid: it does nothing unless the image is smaller than the grid.
        """
        return cls(padded=grid, images=[(min(grid[0], height), min(grid[1], width)) for height, width in images])

    def resampler(self, index: int, grid: Size, output: Size, device: torch.device) -> Resampler:
        """The way from the grid to `output` for image `index`: resize to the padded size, crop, resize."""
        return Resampler(grid=grid, padded=self.padded, image=self.images[index], output=output, device=device)

    def at_image_size(self, index: int, maps: Tensor) -> Tensor:
        """Maps `[Q, h, w]` of image `index` at its own size, `[Q, H, W]`, for masks that are to be thresholded there.

        Rounds as the published code does (`Resampler`'s matrices round otherwise), so that pixels on the threshold fall on
        the same side.
        """
        resized = F.interpolate(maps[None], size=self.padded, mode="bilinear", align_corners=False)[0]
        height, width = self.images[index]
        # Elementwise kernels round their last few numbers differently, so that it matters where a row ends in memory.
        return resized[:, :height, :width].contiguous()
