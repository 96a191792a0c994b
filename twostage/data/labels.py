"""Label maps on disk: reading any width that is in use (8 and 16-bit PNG, palette PNG, TIFF) and writing PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from twostage.data.images import open_image
from twostage.errors import UserError
from twostage.files import atomic_path

# What to do with labels in colours.
_COLORS_CURE = "`python tools/prepare_datasets.py prepare FOLDER` does it by the colours of the folder's classes.json"
# One value per pixel: 8 bit, palette index, bilevel, and the 16 / 32-bit modes of PNG and TIFF.
_LABEL_MODES = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def is_color_picture(path: str | Path) -> bool:
    """Whether an image file holds colours, not one value per pixel; reads the head only. UserError where it can't."""
    with open_image(path, what="label file") as image:
        return image.mode not in _LABEL_MODES


def read_label_map(path: str | Path, *, largest: int = 255) -> np.ndarray:
    """Read a label image as `[H, W]` int64; palette images give their indices, not their colours.

    Args:
        largest: the largest value that labels of this dataset may hold (class or ignore label).

    Raises:
        UserError: missing or unreadable file, an RGB picture of the labels instead of the labels, or 8 bits where `largest`
            needs 16.
    """
    with open_image(path, what="label file", cure="prepare the dataset again") as image:
        image.load()
        mode, values = image.mode, np.asarray(image)
    if mode not in _LABEL_MODES:
        raise UserError(
            f"label file '{path}' is a colour picture (mode {mode}); labels hold one class index per pixel, "
            f"turn the colours into indices ({_COLORS_CURE})"
        )
    if largest > np.iinfo(np.uint8).max and values.dtype.itemsize == 1:
        raise UserError(
            f"label file '{path}' has 8 bits per pixel, but labels of this dataset go up to {largest}: higher values were "
            "cut off; write the labels as 16-bit PNG"
        )
    return values.astype(np.int64)


def write_label_map(path: str | Path, labels: np.ndarray) -> None:
    """Write `[H, W]` class indices atomically as PNG, 8 bit where all values fit, else 16 bit.

    Raises:
        UserError: an index below 0 or above 65535, or a folder that can't be written.
    """
    if labels.size and not 0 <= labels.min() <= labels.max() <= np.iinfo(np.uint16).max:
        raise UserError(f"can't save '{path}': indices {labels.min()}..{labels.max()} don't fit into a 16-bit PNG")
    dtype = np.uint8 if not labels.size or labels.max() <= np.iinfo(np.uint8).max else np.uint16
    with atomic_path(path) as temporary:
        Image.fromarray(labels.astype(dtype)).save(temporary, format="PNG")
