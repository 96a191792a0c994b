"""Predictions that are class logits of every cell of a grid.

Legend: B images, C classes, K kept classes, h x w the grid, height x width the wanted output size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from twostage.inference import blocks
from twostage.inference.best_class import best_of_resized
from twostage.inference.resampling import Resampler, Size
from twostage.predictions.geometry import Geometry
from twostage.predictions.prediction import TopScores


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
            labels = best_of_resized(self._resampler(index, size), self.logits[index])
            result.append(labels if self.kept is None else self.kept[index][labels])
        return result

    def top(self, sizes: Sequence[Size], count: int) -> list[TopScores]:
        """The `count` best classes of each pixel, per image; a rejected class has the score `fill`."""
        result = []
        for index, size in enumerate(sizes):
            room = TopScores.room(count, size, self.logits.device)
            resample = self._resampler(index, size)
            for rows in blocks.strips(size, 2 * (count + min(blocks.CLASS_BLOCK, self.num_classes))):
                room.put(rows, blocks.running_top(self._all_classes(index, resample, rows), count))
            result.append(room)
        return result

    def _all_classes(self, index: int, resample: Resampler, rows: slice) -> Iterator[tuple[int, Tensor]]:
        """First class and scores `[c, rows, width]` of blocks of all C classes."""
        logits = self.logits[index]
        if self.kept is None:
            for part in blocks.class_blocks(self.num_classes):
                yield part.start, resample(logits[part], rows.start, rows.stop)
            return
        places = torch.full((self.num_classes,), -1, device=logits.device)
        places[self.kept[index]] = torch.arange(len(logits), device=logits.device)
        for part in blocks.class_blocks(self.num_classes):
            mine = places[part]
            kept = resample(logits[mine[mine >= 0]], rows.start, rows.stop)
            scores = kept.new_full((len(mine), *kept.shape[1:]), self.fill)
            scores[mine >= 0] = kept
            yield part.start, scores

    def _resampler(self, index: int, size: Size) -> Resampler:
        return self.geometry.resampler(index, (self.logits.shape[-2], self.logits.shape[-1]), size, self.logits.device)
