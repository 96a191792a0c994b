"""Similarities of names with crops of several sizes, averaged pixel by pixel, made when a part of them is indexed.

Legend: N names, D embedding size, H x W the network's input, h x w the grid of one size's crops.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twostage.inference.resampling import Resampler, Size
from twostage.systems.training_free.dense_clip.prediction import LazySimilarities


class CropSimilarities(LazySimilarities):
    """`[N, H, W]`: the mean over sizes of the cosines of a size's crops, each grid resized bilinearly to the input."""

    def __init__(self, names: Tensor, crops: Sequence[Tensor], size: Size, objectness: Tensor | None) -> None:
        """
        Args:
            names: unit text embeddings `[N, D]`.
            crops: unit embeddings `[D, h, w]`, one grid per size.
            objectness: `[H, W]` in 0..1, by which all names but the first, the background, are multiplied, and it by the
                rest; None: nothing is.
        """
        self._names, self._crops, self._objectness = names, crops, objectness
        self._ways = [
            Resampler(grid=(grid.shape[1], grid.shape[2]), padded=size, image=size, output=size, device=names.device)
            for grid in crops
        ]
        self.shape = torch.Size([len(names), *size])
        self.device = names.device

    def __getitem__(self, part: tuple[slice, slice]) -> Tensor:
        names, rows = part
        total = torch.zeros((), device=self.device)
        for grid, way in zip(self._crops, self._ways, strict=True):
            used = way.grid_rows(rows.start, rows.stop)
            cosines = torch.einsum("nd,dhw->nhw", self._names[names], grid[:, used])
            total = total + way.from_grid_rows(cosines, used, rows.start, rows.stop)
        mean = total / len(self._crops)
        if self._objectness is None:
            return mean
        weights = self._objectness[rows]
        return torch.cat([mean[:1] * (1 - weights), mean[1:] * weights]) if names.start == 0 else mean * weights
