"""A sheet of many systems: what stands in which place."""

from __future__ import annotations

import numpy as np

from twostage.visualization.report import Example
from twostage.visualization.sheet import contact_sheet


def _flat(value: int, size: tuple[int, int]) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def test_a_row_per_system_and_a_column_per_picture() -> None:
    sizes = [(240, 80), (320, 640)]
    examples = [
        Example(
            title=f"{column}",
            caption="",
            # Image, a system, ground truth.
            panels=[(f"row {row}", _flat(10 + 80 * row + 40 * column, size)) for row in (0, 2, 1)],
            classes=[],
        )
        for column, size in enumerate(sizes)
    ]
    sheet = contact_sheet(examples)
    places = {}
    for value in (10, 50, 90, 130, 170):
        ys, xs = np.nonzero((sheet[:, 230:] == value).all(axis=2))
        places[value] = (ys.max() - ys.min() + 1, xs.max() - xs.min() + 1, ys.min(), xs.min())
    assert places[10][:2] == places[90][:2] == (120, 40)
    assert places[50][:2] == places[130][:2] == (80, 160)
    # Rows begin at the same height, the ground truth's below the image's, the system's last; columns at the same place.
    assert places[10][2] == places[50][2] < places[90][2] == places[130][2] < places[170][2]
    assert places[10][3] == places[90][3] < places[50][3] == places[130][3]
