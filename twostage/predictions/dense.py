"""Predictions that are class logits of every cell of a grid.

Legend: B images, C classes, K kept classes, h x w the grid, height x width the wanted output size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from twostage.inference import blocks
from twostage.inference.resampling import Resampler, Size
from twostage.predictions.geometry import Geometry


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensePrediction:
    """Class logits on a grid.

    Attributes:
        logits: `[B, K, h, w]`, over the kept classes; probabilities where a system's rule is to resize these.
        geometry: where the grid lies.
        num_classes: C; K where nothing was rejected.
        kept: class indices `[B, K]` of the logits' channels in ascending order where classes were rejected early (K < C),
            None where all are there.
        fill: score of a rejected class.
    """

    logits: Tensor
    geometry: Geometry
    num_classes: int
    kept: Tensor | None = None
    fill: float = float("-inf")

    def scores(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Logits `[C, height, width]` of each image, resized bilinearly; for parity checks and export."""
        result = []
        for index, size in enumerate(sizes):
            full = self._resampler(index, size)(self.logits[index])
            if self.kept is not None:
                out = full.new_full((self.num_classes, *size), self.fill)
                out[self.kept[index]] = full
                full = out
            result.append(full)
        return result

    def label_maps(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Best class of each pixel, int64 `[height, width]` per image."""
        result = []
        for index, size in enumerate(sizes):
            labels = torch.empty(size, dtype=torch.int64, device=self.logits.device)
            resample = self._resampler(index, size)
            logits = self.logits[index]
            for rows in blocks.strips(size, min(blocks.CLASS_BLOCK, len(logits))):
                labels[rows] = blocks.running_argmax(
                    (c.start, resample(logits[c], rows.start, rows.stop)) for c in blocks.class_blocks(len(logits))
                )
            result.append(labels if self.kept is None else self.kept[index][labels])
        return result

    def _resampler(self, index: int, size: Size) -> Resampler:
        return self.geometry.resampler(index, (self.logits.shape[-2], self.logits.shape[-1]), size, self.logits.device)
