"""From pictures to the four feature maps of ODISE's generator: crops, the diffusion model's maps, projections, merging
(ODISE, Xu et al., CVPR 2023, section 3.4; sliding crops as in the authors' code).

Legend: B images, H x W padded size, C channels of the maps that the generator reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from twostage.clip.towers.vit import Tower
from twostage.proposals.backbones.resnet import Bottleneck
from twostage.systems.two_stage.odise.captioner import ImplicitCaptioner, embed_crops
from twostage.systems.two_stage.odise.diffusion.latent_diffusion import LatentDiffusion

# Strides that the eight maps are used at (see `LatentDiffusion`), and the generator's name for each stride.
_STRIDES = (4, 8, 32, 32, 16, 8, 8, 4)
NAMES = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}


class CropGrid(NamedTuple):
    """Squares of `side` pixels with these `corners` (top, left), which cover a picture."""

    side: int
    corners: list[tuple[int, int]]


def crop_grid(height: int, width: int, largest: int) -> CropGrid:
    """Squares side by side, as large as the short side allows; the last row and column are shifted inwards.

    >>> crop_grid(128, 192, 512)
    CropGrid(side=128, corners=[(0, 0), (0, 64)])
    """
    side = min(largest, height, width)
    rows, columns = ([min(start, length - side) for start in range(0, length, side)] for length in (height, width))
    return CropGrid(side, [(top, left) for top in rows for left in columns])


class DiffusionFeatures(nn.Module):
    """The feature pyramid; trained are the captioner and the projections."""

    def __init__(
        self,
        *,
        captioner: ImplicitCaptioner,
        diffusion: LatentDiffusion,
        width: int,
        bottleneck: int,
        crop_size: int,
        crop_batch: int,
    ) -> None:
        """
        Args:
            width, bottleneck: C, and the channels inside the projecting blocks.
            crop_size: side of what the diffusion model sees, in pixels.
            crop_batch: crops that pass through it at a time.
        """
        super().__init__()
        self.captioner = captioner
        self.diffusion = diffusion
        self.projections = nn.ModuleList(
            Bottleneck(
                channels=channels,
                width=bottleneck,
                out=width,
                stride=1,
                dilation=1,
                stride_in_1x1=False,
                norm="GN",
            )
            for channels in diffusion.channels
        )
        self.width = width
        self.crop_size = crop_size
        self.crop_batch = crop_batch

    def forward(self, images: Tensor, visual: Tower) -> dict[str, Tensor]:
        """Maps res2 to res5 `[B, C, H / s, W / s]` at strides 4 to 32.

        Args:
            images: `[B, 3, H, W]` in 0..1, sides multiples of 64.
            visual: CLIP's image tower.
        """
        batch, _, height, width = images.shape
        grid = crop_grid(height, width, self.crop_size)
        sums = {s: images.new_zeros(batch, self.width, height // s, width // s) for s in NAMES}
        counts = {s: images.new_zeros(height // s, width // s) for s in NAMES}
        for top, left in grid.corners:
            for stride, count in counts.items():
                count[_cells(top, left, grid.side, stride)] += 1
        for (image, top, left), maps in self._crops(images, grid, visual):
            for stride, crop in maps.items():
                sums[stride][(image, slice(None), *_cells(top, left, grid.side, stride))] += crop
        return {name: sums[stride] / counts[stride] for stride, name in NAMES.items()}

    def _crops(
        self, images: Tensor, grid: CropGrid, visual: Tower
    ) -> Iterator[tuple[tuple[int, int, int], dict[int, Tensor]]]:
        """(image, top, left) of each crop and its projected maps by stride, `[C, side / s, side / s]`."""
        side = grid.side
        places = [(image, top, left) for top, left in grid.corners for image in range(len(images))]
        for start in range(0, len(places), self.crop_batch):
            some = places[start : start + self.crop_batch]
            crops = torch.stack([images[i, :, y : y + side, x : x + side] for i, y, x in some])
            projected = self.project(self.maps(crops, visual), side)
            yield from ((place, {s: m[n] for s, m in projected.items()}) for n, place in enumerate(some))

    def maps(self, crops: Tensor, visual: Tower) -> list[Tensor]:
        """The diffusion model's eight maps of square crops, enlarged to the size that it sees."""
        if crops.shape[-1] != self.crop_size:
            size = (self.crop_size, self.crop_size)
            crops = F.interpolate(crops, size=size, mode="bicubic", align_corners=False)
        with record_function("clip"):
            embeddings = embed_crops(visual, crops)
        with record_function("diffusion"):
            return self.diffusion(crops, self.captioner(embeddings))

    def project(self, maps: list[Tensor], side: int) -> dict[int, Tensor]:
        """The maps of crops of `side` pixels at the strides they are used at, projected and added up."""
        result: dict[int, Tensor] = {}
        with record_function("projections"):
            for stride, features, projection in zip(_STRIDES, maps, self.projections, strict=True):
                cells = side // stride
                if features.shape[-1] != cells:
                    features = F.interpolate(features, size=(cells, cells), mode="nearest")
                projected = projection(features)
                result[stride] = result[stride] + projected if stride in result else projected
        return result


def _cells(top: int, left: int, side: int, stride: int) -> tuple[slice, slice]:
    return (
        slice(top // stride, (top + side) // stride),
        slice(left // stride, (left + side) // stride),
    )
