"""Predictions in which contrast words compete: where one of them wins, a pixel is none of the words asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from twostage.errors import UserError, shown
from twostage.inference.resampling import Size
from twostage.predictions.masks import MaskPrediction
from twostage.predictions.prediction import UNLABELLED, Prediction, TopScores


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastedPrediction:
    """What a system says of the asked words alone, without the pixels that a contrast word takes from all of them.

    Which asked word a pixel shows is read from `asked`, so that contrast words never move a pixel from one asked word to
    another, whatever a system's scores have to do with each other.

    Legend: A asked words, height x width the wanted output size.

    Attributes:
        asked: of the A asked words alone.
        rivalled: of the asked words, then the contrast words.
        num_asked: A.
    """

    asked: Prediction
    rivalled: Prediction
    num_asked: int

    def scores(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Scores of the asked words among themselves, `[A, height, width]` per image."""
        return self.asked.scores(sizes)

    def top(self, sizes: Sequence[Size], count: int) -> list[TopScores]:
        """The `count` best of the asked words among themselves, per image."""
        return self.asked.top(sizes, count)

    def label_maps(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Best asked word of each pixel, int64 `[height, width]` per image; `UNLABELLED` where a contrast word beats it."""
        return [
            torch.where((winner >= 0) & (winner < self.num_asked), labels, UNLABELLED)
            for winner, labels in zip(self.rivalled.label_maps(sizes), self.asked.label_maps(sizes), strict=True)
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlooredPrediction:
    """A prediction whose pixels need a least score to be one of the words.

    Attributes:
        prediction: what is floored.
        min_score: the least score, on the system's own scale (that of `scores`), of the best word of a pixel.
    """

    prediction: Prediction
    min_score: float

    def __post_init__(self) -> None:
        """UserError where the least score is no number."""
        is_number = isinstance(self.min_score, int | float) and not isinstance(self.min_score, bool)
        if not is_number or math.isnan(self.min_score):
            raise UserError(f"min_score is {shown(self.min_score)}; give a number on the scale of the scores, or None")

    def scores(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Those of the prediction."""
        return self.prediction.scores(sizes)

    def top(self, sizes: Sequence[Size], count: int) -> list[TopScores]:
        """Those of the prediction."""
        return self.prediction.top(sizes, count)

    def label_maps(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Those of the prediction, `UNLABELLED` below the least score."""
        return [
            torch.where(best.scores[0] >= self.min_score, labels, UNLABELLED)
            for best, labels in zip(self.top(sizes, 1), self.prediction.label_maps(sizes), strict=True)
        ]


def masks_of(prediction: Prediction) -> MaskPrediction | None:
    """The masks in a prediction, None where it has none; with contrast words, those among which they compete."""
    if isinstance(prediction, FlooredPrediction):
        return masks_of(prediction.prediction)
    if isinstance(prediction, ContrastedPrediction):
        masks = masks_of(prediction.rivalled)
        return None if masks is None else dataclasses.replace(masks, num_named=prediction.num_asked)
    return prediction if isinstance(prediction, MaskPrediction) else None
