"""A sheet of many systems: what stands in which place."""

from __future__ import annotations

import numpy as np
import pytest

from twostage.errors import UserError
from twostage.visualization.report import Example, webp_bytes
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


def test_many_systems_stand_in_blocks() -> None:
    """A sheet is no higher than a WebP file may be; every system is in it once, the image and the truth in each block."""
    count = 300
    panels = [("image", _flat(255, (120, 160))), *((f"{i}", _flat(i % 200, (120, 160))) for i in range(count))]
    example = Example(title="a", caption="", panels=[*panels, ("truth", _flat(210, (120, 160)))])
    sheet = contact_sheet([example])
    assert max(sheet.shape) < 16_384 and webp_bytes(sheet)
    rows, width = (16_000 - 6) // 126, 230 + 166
    shown = sheet[6 + 60 :: 126, 230 + 80 :: width, 0].T
    assert shown.shape == (3, rows) and (shown[:, 0] == 255).all() and (shown[:, 1] == 210).all()
    assert shown[:, 2:].flatten()[:count].tolist() == [i % 200 for i in range(count)]
    with pytest.raises(UserError, match="300 systems on 60 pictures don't fit"):
        contact_sheet([example] * 60)
