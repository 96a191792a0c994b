"""What every prediction offers, whatever a system predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from twostage.inference.resampling import Size

# Label of pixels that are none of the words asked for, from systems that can say so.
UNLABELLED = -1


class Prediction(Protocol):
    """A batch's scores on some grid: masks, dense logits, tiles, or what a system has a rule of its own for.

    Legend: C classes, height x width the wanted output size.
    """

    def scores(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Score of each class at each pixel, `[C, height, width]` per image; for parity checks and export."""

    def label_maps(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Best class of each pixel, int64 `[height, width]` per image; `UNLABELLED` where no word fits.

        Made in strips of rows and blocks of classes with a running maximum, so that memory depends neither on the number of
        classes times pixels nor on the output size.
        """
