"""Labels of Trident after SAM has looked at them.

Legend: C classes, N names, H x W the output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.inference import blocks
from twostage.inference.resampling import Size
from twostage.predictions.prediction import TopScores
from twostage.systems.training_free.dense_clip.prediction import NamePrediction
from twostage.systems.training_free.trident.refinement import Answer, Refiner, SamView, coarse_labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefinedPrediction(NamePrediction):
    """Similarities with every name, and what SAM needs to refine their labels.

    Attributes:
        refiner: None where labels stay as they are.
        views: one per image, where there is a refiner.
    """

    refiner: Refiner | None = None
    views: Sequence[SamView] = ()

    def label_maps(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Label of each pixel, int64 `[height, width]` per image; classes are looked at one after the other."""
        plain = super().label_maps(sizes)
        if self.refiner is None:
            return plain
        return [self._refined_labels(index, labels) for index, labels in enumerate(plain)]

    def scores(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Class probabilities `[C, height, width]` of each image, refined; holds C maps."""
        plain = super().scores(sizes)
        if self.refiner is None:
            return plain
        labels = super().label_maps(sizes)
        return [self._refined_scores(index, *given) for index, given in enumerate(zip(labels, plain, strict=True))]

    def top(self, sizes: Sequence[Size], count: int) -> list[TopScores]:
        """The `count` most probable classes of each pixel, per image, refined; then it holds C maps."""
        if self.refiner is None:
            return super().top(sizes, count)
        return [TopScores(*blocks.running_top([(0, scores)], count)) for scores in self.scores(sizes)]

    def _refined_labels(self, index: int, labels: Tensor) -> Tensor:
        probabilities = ClassProbabilities(self, index, (labels.shape[0], labels.shape[1]))
        best = torch.zeros_like(labels, dtype=torch.float32)
        refined = labels.clone()
        for number, answer in self._answers(index, labels, probabilities):
            if answer.values is not None:
                refined = torch.where(answer.values > best, number, refined)
                best = torch.maximum(answer.values, best)
        return refined

    def _refined_scores(self, index: int, labels: Tensor, plain: Tensor) -> Tensor:
        size = (labels.shape[0], labels.shape[1])
        refined = torch.zeros_like(plain)
        failed = torch.zeros(size, dtype=torch.bool, device=plain.device)
        believed = False
        for number, answer in self._answers(index, labels, ClassProbabilities(self, index, size)):
            failed |= F.interpolate(answer.failed[None, None].double(), size=size, mode="nearest")[0, 0].bool()
            if answer.values is not None:
                refined[number] = answer.values
                believed = True
        return torch.where(failed, torch.maximum(refined, plain), refined) if believed else plain

    def _answers(self, index: int, labels: Tensor, probabilities: ClassProbabilities) -> Iterator[tuple[int, Answer]]:
        assert self.refiner is not None, "asked only where there is one"
        coarse = coarse_labels(labels, probabilities.best_at_half(), self.refiner.rule.least_probability)
        return self.refiner.answers(self.views[index], coarse, probabilities)


class ClassProbabilities:
    """Probabilities of single classes at the output's size, made when they are asked for."""

    def __init__(self, prediction: NamePrediction, index: int, size: Size) -> None:
        self._prediction, self._index, self._size = prediction, index, size
        scale = prediction.rule.logit_scale
        total: Tensor | None = None
        for _, maps in prediction.similarity_blocks(index, size, slice(0, size[0])):
            block = (scale * maps).logsumexp(dim=0)
            total = block if total is None else torch.logaddexp(total, block)
        assert total is not None, "a vocabulary has at least one name"
        self._log_sum = total
        counts = torch.bincount(prediction.classes, minlength=prediction.num_classes)
        self._ends = counts.cumsum(0).tolist()

    def __call__(self, number: int) -> Tensor:
        """`[H, W]` of class `number`: the best of its names."""
        names = slice(self._ends[number - 1] if number else 0, self._ends[number])
        everything = slice(0, self._size[0])
        blocks = self._prediction.similarity_blocks(self._index, self._size, everything, names)
        best = torch.stack([maps.amax(dim=0) for _, maps in blocks]).amax(dim=0)
        return (self._prediction.rule.logit_scale * best - self._log_sum).exp()

    def best_at_half(self) -> Tensor:
        """`[H // 2, W // 2]`: of the classes' probabilities, each resized, the greatest."""
        half = (self._size[0] // 2, self._size[1] // 2)
        best = self._log_sum.new_zeros(half)
        for number in range(len(self._ends)):
            small = F.interpolate(self(number)[None, None], size=half, mode="bilinear", align_corners=False)[0, 0]
            best = torch.maximum(best, small)
        return best
