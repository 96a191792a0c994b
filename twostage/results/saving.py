"""Results as files, each written whole or not at all."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from twostage.data.images import own_output
from twostage.errors import UserError
from twostage.files import atomic_path
from twostage.visualization.palette import palette

# Names that fit beside "none" into a label map of 8 bits.
_NONE_8_BIT = 255


def save_picture(picture: Image.Image, path: Path, about: PngInfo | None = None, *, durable: bool = False) -> Path:
    """Write a PNG with the mark of twostage and what else `about` says; `durable` as `atomic_path` has it."""
    with atomic_path(path, durable=durable) as temporary:
        picture.save(temporary, format="PNG", pnginfo=about or own_output())
    return path


def save_label_map(labels: np.ndarray, names: Sequence[str], path: Path, *, durable: bool = False) -> Path:
    """Write labels `[H, W]`, -1 for none, as a PNG of indices into `names`.

    Up to 255 names it has 8 bits and a palette, so that viewers show it in the overlay's colours; above, 16 bits of grey. The
    greatest number, 255 or 65535, stands for none. Text chunks say so: `none` is that number, `names` a json list of the names
    and `palette` one of their colours ("#rrggbb").

    Args:
        durable: as `atomic_path` has it; for a map that took long.

    Raises:
        UserError: more names than a PNG can tell apart, or a folder that can't be written.
    """
    picture, about = _label_picture(labels, names)
    return save_picture(picture, path, about, durable=durable)


def label_map_png(labels: np.ndarray, names: Sequence[str]) -> bytes:
    """The content of the file that `save_label_map` writes. Raises UserError for more names than a PNG can tell apart."""
    picture, about = _label_picture(labels, names)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=about)
    return buffer.getvalue()


def _label_picture(labels: np.ndarray, names: Sequence[str]) -> tuple[Image.Image, PngInfo]:
    kind = np.uint8 if len(names) <= _NONE_8_BIT else np.uint16
    none = int(np.iinfo(kind).max)
    if len(names) > none:
        raise UserError(f"a label map on disk tells {none} names apart, these are {len(names)}; use `labels`")
    colors = palette(len(names))
    picture = Image.fromarray(np.where(labels < 0, none, labels).astype(kind))
    if kind is np.uint8:
        # Black for none.
        table = np.zeros((none + 1, 3), np.uint8)
        table[: len(names)] = colors
        picture.putpalette(table.tobytes())
    about = own_output()
    about.add_text("none", str(none))
    about.add_itxt("names", json.dumps(list(names), ensure_ascii=False))
    about.add_text("palette", json.dumps([f"#{bytes(color).hex()}" for color in colors]), zip=len(names) > _NONE_8_BIT)
    return picture, about


def save_arrays(labels: np.ndarray, names: Sequence[str], path: Path) -> Path:
    """Write `labels` (int32 `[H, W]`, -1 for none) and `names` as numpy's .npz; it is read without unpickling."""
    # Given a file, numpy appends no suffix to the temporary name.
    with atomic_path(path, durable=False) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, labels=labels.astype(np.int32), names=np.array(names, dtype=np.str_))
    return path
