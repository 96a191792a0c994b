"""PAMR: pixel-adaptive mask refinement (Araslanov and Roth, Single-Stage Semantic Segmentation, CVPR 2020, section 4.3).

A score map takes, again and again, the mean of its neighbours' values, weighted by how alike the pixels' colours are. The
affinities depend on the picture only; classes do not mix, so they are refined a few at a time in cache-sized chunks.

Legend: H x W pixels, N maps, P neighbours (8 per dilation).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Values per chunk of maps: what a core's cache holds, and what keeps a GPU busy.
_CHUNK_CPU = 2**19
_CHUNK_GPU = 2**26
_EPSILON = 1e-8
_SHARPNESS = 0.1


class Pamr:
    """Refinement guided by one picture."""

    def __init__(self, image: Tensor, *, steps: int, dilations: Sequence[int]) -> None:
        """
        Args:
            image: `[3, H, W]`, as it is fed to the network (normalised).
            steps: rounds of averaging; 0 changes nothing.
            dilations: distances of the 3 x 3 neighbourhoods in pixels.
        """
        self.steps = steps
        self.offsets = [
            (dilation * row, dilation * column)
            for dilation in dilations
            for row in (-1, 0, 1)
            for column in (-1, 0, 1)
            if row or column
        ]
        self._margin = max(dilations)
        self.affinity = self._affinity(image)

    def __call__(self, maps: Tensor) -> Tensor:
        """Refined `maps` `[N, H, W]`."""
        budget = _CHUNK_GPU if maps.is_cuda else _CHUNK_CPU
        per_chunk = max(1, budget // maps[0].numel())
        return torch.cat([self._refine(chunk) for chunk in maps.split(per_chunk)])

    def _refine(self, maps: Tensor) -> Tensor:
        for _ in range(self.steps):
            padded, total = self._pad(maps), torch.zeros_like(maps)
            for weight, offset in zip(self.affinity, self.offsets, strict=True):
                total.addcmul_(self._shifted(padded, offset), weight)
            maps = total
        return maps

    def _affinity(self, image: Tensor) -> Tensor:
        """Softmax over neighbours `[P, H, W]` of minus the colour difference, in units of the local deviation."""
        padded = self._pad(image)
        neighbours = torch.stack([self._shifted(padded, offset) for offset in self.offsets])
        # Each dilation's 3 x 3 neighbourhood contributes its centre once to the deviation.
        centres = image.expand(len(self.offsets) // 8, *image.shape)
        deviation = torch.cat([neighbours, centres]).std(dim=0)
        closeness = -(neighbours - image).abs_() / (_EPSILON + _SHARPNESS * deviation)
        return closeness.mean(dim=1).softmax(dim=0)

    def _pad(self, maps: Tensor) -> Tensor:
        return F.pad(maps[None], (self._margin,) * 4, mode="replicate")[0]

    def _shifted(self, padded: Tensor, offset: tuple[int, int]) -> Tensor:
        """The neighbour at `offset` of every pixel, from maps padded by the margin."""
        top, left = self._margin + offset[0], self._margin + offset[1]
        height, width = (side - 2 * self._margin for side in padded.shape[-2:])
        return padded[..., top : top + height, left : left + width]
