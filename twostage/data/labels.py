"""Label maps on disk: reading any width that is in use (8 and 16-bit PNG, palette PNG, TIFF) and writing PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from twostage.data.images import open_image
from twostage.errors import UserError
from twostage.files import atomic_path

Color = tuple[int, int, int]

# The ignore label of 16-bit files; floats of any size would lose their value on the way to whole numbers.
_LARGEST = 65535
# What to do with labels in colours.
_COLORS_CURE = "`twostage prepare FOLDER` does it by the colours of the folder's classes.json"
# One value per pixel: 8 bit, palette index, bilevel, and the 16 / 32-bit modes of PNG and TIFF.
_LABEL_MODES = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")

# What to do about a broken file of labels; `prepare` keeps those that are there.
MADE_AGAIN = "replace it, or remove it and let `twostage prepare` make it again"


def is_color_picture(path: str | Path, colors: Sequence[Color] | None = None) -> bool:
    """Whether the meaning of a label file lies in its colours: a colour picture, or with `colors` a palette picture of them.

    Args:
        colors: of the classes, where they are known.

    Raises:
        UserError: it can't be read.
    """
    with open_image(path, what="label file") as image:
        return image.mode not in _LABEL_MODES or _means_colors(image, colors)


def palette_of(image: Image.Image) -> dict[int, Color]:
    """Value -> colour of the values that a palette picture holds; empty for other pictures."""
    if image.mode != "P":
        return {}
    listed = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    used = np.unique(np.asarray(image))
    return {int(i): (int(listed[i][0]), int(listed[i][1]), int(listed[i][2])) for i in used if i < len(listed)}


def _means_colors(image: Image.Image, colors: Sequence[Color] | None) -> bool:
    """Whether a value of a palette picture has the colour of another class, so that not the value is the class.

    Image editors give the colours of a picture numbers of their own, in every file others.
    """
    palette = palette_of(image) if colors else {}
    if not colors or all(color == (value,) * 3 for value, color in palette.items()):
        return False
    known = {color: index for index, color in enumerate(colors)}
    return any(known.get(color, value) != value for value, color in palette.items())


def read_label_map(path: str | Path, *, largest: int = 255, colors: Sequence[Color] | None = None) -> np.ndarray:
    """Read a label image as `[H, W]` int64, as it is stored; palette pictures give their indices.

    Args:
        largest: the largest value that labels of this dataset may hold (class or ignore label).
        colors: of the classes, where they are known: palette pictures whose colours are those of other classes are refused.

    Raises:
        UserError: missing or unreadable file, a picture whose colours are the labels, 8 bits where `largest` needs 16, or
            values that are no whole numbers from 0 on.
    """
    with open_image(path, what="label file", cure=MADE_AGAIN) as image:
        image.load()
        mode, values, colored = image.mode, np.asarray(image), _means_colors(image, colors)
    if mode not in _LABEL_MODES or colored:
        kind = (
            "a palette picture whose colours, not values, are the classes"
            if colored
            else f"a colour picture (mode {mode})"
        )
        raise UserError(
            f"label file '{path}' is {kind}; labels hold one class index per pixel, turn the colours into indices "
            f"({_COLORS_CURE})"
        )
    if largest > np.iinfo(np.uint8).max and values.dtype.itemsize == 1:
        raise UserError(
            f"label file '{path}' has 8 bits per pixel, but labels of this dataset go up to {largest}: higher values were "
            "cut off; write the labels as 16-bit PNG"
        )
    _check_whole(values, path)
    return values.astype(np.int64)


def _check_whole(values: np.ndarray, path: str | Path) -> None:
    """See that the values of a label file can be class indices."""
    if np.issubdtype(values.dtype, np.floating):
        broken = values[~np.isfinite(values) | (values != np.floor(values))]
        if broken.size:
            raise UserError(
                f"label file '{path}' holds {broken[0]:g}; labels are whole numbers: resize label maps by nearest neighbours, "
                "write the ignore label where there is none, and save integers (PNG)"
            )
    if values.size and values.max() > _LARGEST:
        raise UserError(
            f"label file '{path}' holds {values.max():g}; labels are class numbers up to {_LARGEST}: save the numbers of "
            "classes, not depths, scores or identities"
        )
    if values.size and values.min() < 0:
        raise UserError(
            f"label file '{path}' holds {values.min():g}; labels are numbers from 0 on: write the ignore label (255, of "
            "16-bit labels 65535) in place of negative ones"
        )


def write_label_map(path: str | Path, labels: np.ndarray) -> None:
    """Write `[H, W]` class indices atomically as PNG, 8 bit where all values fit, else 16 bit.

    Raises:
        UserError: an index below 0 or above 65535, or a folder that can't be written.
    """
    if labels.size and not 0 <= labels.min() <= labels.max() <= np.iinfo(np.uint16).max:
        raise UserError(f"can't save '{path}': indices {labels.min()}..{labels.max()} don't fit into a 16-bit PNG")
    dtype = np.uint8 if not labels.size or labels.max() <= np.iinfo(np.uint8).max else np.uint16
    with atomic_path(path, durable=False) as temporary:
        Image.fromarray(labels.astype(dtype)).save(temporary, format="PNG")
