"""Label maps: what would be misread is refused, naming the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.data.labels import is_color_picture, read_label_map
from twostage.errors import UserError

COLORS = [(0, 0, 0), (200, 30, 30), (30, 200, 30)]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.5, "holds 0.5; labels are whole numbers"),
        (np.nan, "holds nan"),
        (np.inf, "holds inf"),
        (-1.0, "holds -1; labels are numbers from 0 on: write the ignore label"),
        (65536.0, "holds 65536; labels are class numbers up to 65535"),
        (1e30, r"holds 1e\+30; labels are class numbers"),
    ],
)
def test_what_is_no_index_is_refused(value: float, said: str, tmp_path: Path) -> None:
    labels = np.zeros((4, 6), np.float32)
    labels[2, 3] = value
    Image.fromarray(labels).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=rf"label file '.*a\.tif' {said}"):
        read_label_map(tmp_path / "a.tif")


def test_whole_floats_and_wide_integers_are_read(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 60000, (5, 7))
    for name, kind in (("a.tif", np.float32), ("b.tif", np.int32), ("c.png", np.uint16)):
        Image.fromarray(labels.astype(kind)).save(tmp_path / name)
        assert np.array_equal(read_label_map(tmp_path / name, largest=65535), labels)
    labels[0, 0] = -1
    Image.fromarray(labels.astype(np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(UserError, match=r"b\.tif' holds -1"):
        read_label_map(tmp_path / "b.tif", largest=65535)


def palette_picture(path: Path, indices: np.ndarray, palette: list[tuple[int, int, int]]) -> Path:
    picture = Image.fromarray(indices.astype(np.uint8), "P")
    picture.putpalette([value for color in palette for value in color])
    picture.save(path)
    return path


def test_palettes_whose_colours_are_the_classes(tmp_path: Path) -> None:
    """An editor's numbers say nothing where the colours are those of other classes; other palettes are decoration."""
    indices = np.array([[0, 1, 2], [2, 2, 1]])
    swapped = palette_picture(tmp_path / "swapped.png", indices, [COLORS[2], COLORS[0], COLORS[1]])
    assert is_color_picture(swapped, COLORS) and not is_color_picture(swapped)
    assert np.array_equal(read_label_map(swapped), indices)
    with pytest.raises(
        UserError, match=r"swapped\.png' is a palette picture whose colours, not values, are the classes.*prepare"
    ):
        read_label_map(swapped, colors=COLORS)
    grey = [(value, value, value) for value in range(256)]
    for name, palette in {"same": COLORS, "other": [(9, 9, 1), (7, 7, 2), (5, 5, 3)], "grey": grey}.items():
        path = palette_picture(tmp_path / f"{name}.png", indices, palette)
        assert np.array_equal(read_label_map(path, colors=COLORS), indices), name
    # Only the values that occur count, and the ignore label has no class's colour.
    rest = palette_picture(tmp_path / "rest.png", np.array([[0, 1, 255]]), [*COLORS[:2], *[COLORS[2]] * 253, (9, 9, 9)])
    assert read_label_map(rest, colors=COLORS).tolist() == [[0, 1, 255]]
