"""From similarities of image patches with names to class probabilities and labels.

The order is SCLIP's and NACLIP's: similarities are resized (and refined by PAMR) at the output size; p = softmax(scale *
similarity) over all *names*; a class takes the maximum over its names; foreground classes that win too small an area are
dropped; the best class is the label, or the background, class 0, where its probability is below a threshold.

Labels need no class volume: the softmax is monotone, so the best name's class wins, and its probability needs only the sum
over names, both kept as running values over blocks of names and strips of rows.

Legend: N names, C classes, h x w the mosaic of the windows' grids, height x width the output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from twostage.inference import blocks
from twostage.inference.mosaic import Mosaic
from twostage.inference.pamr import Pamr
from twostage.inference.resampling import Size
from twostage.predictions.prediction import TopScores


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelRule:
    """How similarities become labels.

    Attributes:
        logit_scale: factor before the softmax.
        probability_threshold: below it a pixel is background, class 0; 0: never.
        area_threshold: classes from 1 on that win at most this share of the foreground are dropped; 0: none.
        renormalise: class probabilities are divided by their sum (NACLIP); changes `scores`, not labels.
    """

    logit_scale: float
    probability_threshold: float = 0.0
    area_threshold: float = 0.0
    renormalise: bool = False


class LazySimilarities:
    """Cosine similarities `[N, h, w]` of names with patches, made when a part of them is indexed.

    Held whole they would be N maps, which at 10,000 names is more than all the rest of an evaluation.
    """

    def __init__(self, names: Tensor, features: Tensor) -> None:
        """
        Args:
            names: unit text embeddings `[N, D]`.
            features: unit patch embeddings `[D, h, w]`.
        """
        self._names, self._features = names, features
        self.shape = torch.Size([len(names), *features.shape[1:]])
        self.device = features.device

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, part: tuple[slice, slice]) -> Tensor:
        """Similarities `[n, rows, w]` of some names in some rows."""
        names, rows = part
        return torch.einsum("nd,dhw->nhw", self._names[names], self._features[:, rows])


class ImageMaps(NamedTuple):
    """Similarities `[N, h, w]` of one image, where they lie, and the picture that guides PAMR (`[3, *canvas]`)."""

    maps: Tensor | LazySimilarities
    mosaic: Mosaic
    guide: Tensor | None = None


class _Best(NamedTuple):
    """Per pixel of some rows: the best class, its scaled similarity, log of the sum over names."""

    labels: Tensor
    value: Tensor
    log_sum: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamePrediction:
    """Similarities with every name.

    Attributes:
        images: one entry per image.
        classes: class of each name, ascending int64 `[N]`.
        num_classes: C.
        rule: how they become labels.
        pamr_steps, pamr_dilations: refinement at the output size; 0 steps: none.
    """

    images: Sequence[ImageMaps]
    classes: Tensor
    num_classes: int
    rule: LabelRule
    pamr_steps: int = 0
    pamr_dilations: Sequence[int] = ()

    def scores(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Class probabilities `[C, height, width]` of each image; for parity checks and export, since it holds C maps."""
        return [self._scores(index, size) for index, size in enumerate(sizes)]

    def label_maps(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Label of each pixel, int64 `[height, width]` per image."""
        return [self._labels(index, size) for index, size in enumerate(sizes)]

    def top(self, sizes: Sequence[Size], count: int) -> list[TopScores]:
        """The `count` most probable classes of each pixel, per image; holds N maps with PAMR, N of a strip without."""
        result = []
        for index, size in enumerate(sizes):
            room = TopScores.room(count, size, self.classes.device)
            kept = self._kept_classes(index, size)
            for rows in self._strips(size, 3 * len(self.classes) + 2 * count):
                similarities = torch.cat([maps for _, maps in self.similarity_blocks(index, size, rows)])
                probabilities = self._class_probabilities(similarities, kept)
                room.put(rows, blocks.running_top([(0, probabilities)], count))
            result.append(room)
        return result

    def similarities(self, index: int, size: Size) -> Tensor:
        """`[N, height, width]` of one image, refined; holds N maps."""
        return torch.cat([maps for _, maps in self.similarity_blocks(index, size, slice(0, size[0]))])

    def _strips(self, size: Size, floats_per_pixel: int) -> Iterable[slice]:
        """Rows that are made at a time; PAMR looks far around a pixel, so that an image is refined as one strip."""
        return [slice(0, size[0])] if self.pamr_steps else blocks.strips(size, floats_per_pixel)

    def _labels(self, index: int, size: Size) -> Tensor:
        kept = self._kept_classes(index, size)
        names = None if kept is None else kept[self.classes]
        labels = torch.empty(size, dtype=torch.int64, device=self.classes.device)
        for rows, best in self._best(index, size, names):
            labels[rows] = best.labels
            if self.rule.probability_threshold:
                probability = (best.value - best.log_sum).exp()
                labels[rows] *= probability >= self.rule.probability_threshold
        return labels

    def _kept_classes(self, index: int, size: Size) -> Tensor | None:
        """bool `[C]`: the background, and foreground classes with a large enough share of the foreground; None: all."""
        if not self.rule.area_threshold:
            return None
        labels = torch.cat([best.labels for _, best in self._best(index, size, None)])
        areas = torch.bincount(labels.flatten(), minlength=self.num_classes)
        areas[0] = 0
        kept = areas > self.rule.area_threshold * areas.sum()
        kept[0] = True
        return kept

    def _best(self, index: int, size: Size, names: Tensor | None) -> Iterator[tuple[slice, _Best]]:
        """Best classes strip by strip, among `names` (bool `[N]`; None: all); the log sum is over all names."""
        for rows in self._strips(size, 2 * min(blocks.CLASS_BLOCK, len(self.classes))):
            best: _Best | None = None
            for part, maps in self.similarity_blocks(index, size, rows):
                block = self._best_of_block(part, maps, names)
                best = block if best is None else _better(best, block)
            assert best is not None, "a vocabulary has at least one name"
            yield rows, best

    def _best_of_block(self, part: slice, maps: Tensor, names: Tensor | None) -> _Best:
        logits = self.rule.logit_scale * maps
        log_sum = logits.logsumexp(dim=0) if self.rule.probability_threshold else logits.new_zeros(())
        if names is not None:
            logits = logits.masked_fill(~names[part, None, None], float("-inf"))
        value, name = logits.max(dim=0)
        return _Best(self.classes[part][name], value, log_sum)

    def _scores(self, index: int, size: Size) -> Tensor:
        out = self.classes.new_empty((self.num_classes, *size), dtype=torch.float32)
        similarities = self.similarities(index, size)
        kept = self._kept_classes(index, size)
        for rows in blocks.strips(size, 3 * len(self.classes)):
            out[:, rows] = self._class_probabilities(similarities[:, rows], kept)
        return out

    def _class_probabilities(self, similarities: Tensor, kept: Tensor | None) -> Tensor:
        """`[C, ...]` from `[N, ...]`, of the kept classes (bool `[C]`, None: all), by the rule."""
        probabilities = (self.rule.logit_scale * similarities).softmax(dim=0)
        classes = probabilities.new_zeros((self.num_classes, *probabilities.shape[1:]))
        index = self.classes[:, None, None].expand_as(probabilities)
        classes.scatter_reduce_(0, index, probabilities, "amax")
        if kept is not None:
            classes *= kept[:, None, None]
        if self.rule.renormalise:
            classes /= classes.sum(dim=0, keepdim=True)
        return classes

    def similarity_blocks(
        self, index: int, size: Size, rows: slice, names: slice | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Resized and refined similarities `[n, rows, width]` of some names after the other, of all or of `names`."""
        maps, mosaic, guide = self.images[index]
        resample = mosaic.resampler((maps.shape[-2], maps.shape[-1]), size, maps.device)
        refine = None
        if self.pamr_steps:
            assert guide is not None, "PAMR needs the picture"
            canvas = (guide.shape[-2], guide.shape[-1])
            picture = Mosaic(tiles=mosaic.tiles.whole(canvas)).resampler(canvas, size, guide.device)(guide)
            refine = Pamr(picture, steps=self.pamr_steps, dilations=self.pamr_dilations)
        # Refinement holds whole maps of the output's size, so fewer names at a time keep memory flat.
        step = blocks.CLASS_BLOCK if refine is None else max(1, blocks.STRIP_FLOATS // (size[0] * size[1]))
        used = resample.grid_rows(rows.start, rows.stop)
        asked = range(len(maps)) if names is None else range(names.start, names.stop)
        for start in asked[::step]:
            part = slice(start, min(start + step, asked.stop))
            with record_function("resize"):
                block = resample.from_grid_rows(maps[part, used], used, rows.start, rows.stop)
            if refine is not None:
                with record_function("PAMR"):
                    block = refine(block)
            yield part, block


def _better(first: _Best, second: _Best) -> _Best:
    """Of two blocks of names, the earlier wins a tie."""
    better = second.value > first.value
    return _Best(
        torch.where(better, second.labels, first.labels),
        torch.where(better, second.value, first.value),
        torch.logaddexp(first.log_sum, second.log_sum) if first.log_sum.ndim else first.log_sum,
    )
