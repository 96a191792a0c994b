"""Colours are distinct, stable and fit to be seen."""

from __future__ import annotations

import numpy as np
import pytest

from twostage.visualization.palette import oklab, palette


@pytest.mark.parametrize("count", [0, 1, 2, 171, 847, 5000, 20_000])
def test_all_different(count: int) -> None:
    colors = palette(count)
    assert colors.shape == (count, 3)
    assert colors.dtype == np.uint8
    assert len(np.unique(colors, axis=0)) == count


def test_a_colour_does_not_depend_on_the_number_of_classes() -> None:
    assert np.array_equal(palette(500)[:20], palette(20))
    assert np.array_equal(palette(2000)[:1500], palette(1500))


def test_few_classes_are_far_apart() -> None:
    lab = oklab(palette(12))
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[~np.eye(12, dtype=bool)]
    assert distances.min() > 0.15  # about 0.02 is what an eye just notices


def test_changing_the_answer_does_not_change_the_next_one() -> None:
    first = palette(5)
    first[:] = 0
    assert palette(5).any()


def test_oklab_of_white_black_and_red() -> None:
    """Reference values of the OKLab article."""
    lab = oklab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], np.uint8))
    expected = [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.62796, 0.22486, 0.12585]]
    assert lab == pytest.approx(np.array(expected), abs=1e-4)


def test_too_many() -> None:
    with pytest.raises(ValueError, match="distinct colours, 1000000 were asked for"):
        palette(1_000_000)
