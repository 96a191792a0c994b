"""The comparison of two runs of a system: what it counts, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from twostage.errors import UserError
from twostage.export.comparison import compare


class Fixed:
    """A segmenter whose scores are given."""

    model = SimpleNamespace(embed_vocabulary=lambda vocabulary: None)

    def __init__(self, scores: list[float]) -> None:
        self.values = torch.tensor(scores).reshape(2, 1, -1)

    def resized(self, picture: np.ndarray) -> np.ndarray:
        return picture

    def __call__(self, picture: np.ndarray, vocabulary: Any, others: None) -> Any:
        return SimpleNamespace(scores=lambda: self.values, labels=self.values.argmax(dim=0).numpy())


ONE = [0.1, 0.2, 0.3, 0.9, 0.8, 0.7]


def compared(other: list[float], strays: float = 0.0) -> Any:
    picture = np.zeros((1, 3, 3), np.uint8)
    found: Any = (Fixed(ONE), Fixed(other))
    return compare(*found, pictures=[picture, picture], class_counts=(2,), strays=strays)


def test_the_largest_difference_and_equal_labels() -> None:
    result = compared([0.1, 0.2, 0.75, 0.9, 0.8005, 0.7])
    assert result.score_difference == pytest.approx(0.45) and result.equal_labels == pytest.approx(2 / 3)
    assert result.pictures == 2 and result.sizes == 1 and result.worst_picture == pytest.approx(2 / 3)
    compared([0.1, 0.2, 0.3, 0.9, 0.8005, 0.7]).check()
    with pytest.raises(UserError, match=r"by up to 0.45 .*66.667 %"):
        result.check()


@pytest.mark.parametrize("place", range(6))
def test_what_is_no_number_is_refused(place: int) -> None:
    """Wherever it is, the label may be the same."""
    other = [value if index != place else float("nan") for index, value in enumerate(ONE)]
    with pytest.raises(UserError, match="scores by up to inf"):
        compared(other).check()


def test_strays_are_left_out_and_no_pixel_more() -> None:
    other = [0.1, 0.65, 0.3, 0.9, 0.8, 0.69]
    assert compared(other, strays=0.3).score_difference == pytest.approx(0.45)
    result = compared(other, strays=0.4)
    assert result.score_difference == pytest.approx(0.01) and "1.0e-02 in 60 % of pixels" in result.summary()
    assert "% of pixels," not in compared(other).summary()
