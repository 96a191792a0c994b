"""What every prediction offers, whatever a system predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from twostage.inference.resampling import Size

# Label of pixels that are none of the words asked for, from systems that can say so.
UNLABELLED = -1


class TopScores(NamedTuple):
    """The best classes of each pixel: their scores and indices, both `[k, height, width]`, best first."""

    scores: Tensor
    labels: Tensor

    @classmethod
    def room(cls, count: int, size: Size, device: torch.device) -> TopScores:
        """To be filled strip by strip."""
        return cls(
            torch.empty((count, *size), device=device), torch.empty((count, *size), dtype=torch.int64, device=device)
        )

    def put(self, rows: slice, best: tuple[Tensor, Tensor]) -> None:
        """Fill some rows with scores and indices `[k, rows, width]`."""
        self.scores[:, rows], self.labels[:, rows] = best


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

    def top(self, sizes: Sequence[Size], count: int) -> list[TopScores]:
        """The `count` best classes of each pixel and their `scores`, per image; memory as with `label_maps`."""
