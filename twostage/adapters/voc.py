"""Pascal VOC's label maps: an indexed PNG with VOC's colours, 0 for what is none of the names, names from 1 on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from twostage.adapters.coco_panoptic import refuse_to_replace
from twostage.errors import UserError
from twostage.results.saving import save_picture
from twostage.results.segmentation import Segmentation

# 255 is "void" in VOC.
_MOST_NAMES = 254


def voc_palette() -> np.ndarray:
    """VOC's 256 colours, uint8 `[256, 3]`: the bits of an index are dealt to R, G and B from the highest bit down.

    >>> voc_palette()[[1, 2, 15]].tolist()
    [[128, 0, 0], [0, 128, 0], [192, 128, 128]]
    """
    index = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colors


def to_voc(result: Segmentation) -> Image.Image:
    """The indexed picture. Raises UserError for more names than it can tell apart."""
    if len(result.names) > _MOST_NAMES:
        raise UserError(f"VOC's label maps hold {_MOST_NAMES} names, these are {len(result.names)}; use png or npz")
    picture = Image.fromarray((result.labels + 1).astype(np.uint8))
    picture.putpalette(voc_palette().tobytes())
    return picture


def write_voc(result: Segmentation, path: Path) -> Path:
    """Write the picture as PNG. Raises UserError where `path` is there already."""
    refuse_to_replace(path)
    return save_picture(to_voc(result), path)
