"""A sheet of many systems: what stands in which place."""

from __future__ import annotations

import numpy as np

from twostage.visualization.report import Example
from twostage.visualization.sheet import contact_sheet


def _flat(value: int, size: tuple[int, int]) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def test_a_row_per_system_and_a_column_per_picture() -> None:
    sizes = [(128, 160), (320, 640)]
    examples = [
        Example(
            title=f"{column}",
            caption="",
            panels=[(f"row {row}", _flat(10 + 100 * row + 50 * column, size)) for row in range(2)],
            classes=[],
        )
        for column, size in enumerate(sizes)
    ]
    sheet = contact_sheet(examples)
    places = {}
    for value in (10, 60, 110, 160):
        ys, xs = np.nonzero((sheet[:, 230:] == value).all(axis=2))
        places[value] = (ys.max() - ys.min() + 1, xs.max() - xs.min() + 1, ys.min(), xs.min())
    assert places[10][:2] == places[110][:2] == (128, 160)
    assert places[60][:2] == places[160][:2] == (80, 160)
    # Rows begin at the same height, the second below the first; columns at the same place.
    assert places[10][2] == places[60][2] < places[110][2] == places[160][2]
    assert places[10][3] == places[110][3] < places[60][3] == places[160][3]
