"""Reading pictures: one way for training, evaluation, checks, the demo and the API, with errors that name the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from twostage.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

# Grey of 16 bits, integers and floats.
_DEEP_MODES = ("I", "F")

# What a picture can be read from: a path, or an open binary file.
Source = str | Path | IO[bytes]


@contextlib.contextmanager
def open_image(source: Source, *, what: str = "image", cure: str = "replace or remove it") -> Iterator[Image.Image]:
    """A PIL image for the length of the block; whatever fails in opening or decoding it is one kind of error.

    Args:
        what: word for the file in messages.
        cure: what to do about a file that can't be read.

    Raises:
        UserError: missing, empty, cut off, damaged, too large or no picture; names the file.
    """
    name = _named(source, what)
    try:
        with Image.open(source) as image:
            yield image
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{name} does not exist; {cure}") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise UserError(f"{name} is too large ({_reason(error)}); make it smaller, or {cure}") from error
    # Pillow's decoders trust their files: damaged ones raise OSError, SyntaxError, ValueError, struct.error, zlib.error,
    # OverflowError, EOFError, IndexError, KeyError, TypeError and others.
    except Exception as error:
        raise UserError(f"{name} can't be read ({_reason(error)}); {cure}") from error


def read_rgb(source: Source) -> np.ndarray:
    """A picture as uint8 RGB `[H, W, 3]`, turned upright as its EXIF data says.

    Raises:
        UserError: see `open_image` and `eight_bits`.
    """
    with open_image(source) as image:
        try:
            return rgb_of(image)
        except UserError as error:
            raise UserError(f"{_named(source, 'image')}: {error}") from error


def rgb_of(image: Image.Image) -> np.ndarray:
    """uint8 RGB `[H, W, 3]` of a PIL image, turned upright as its EXIF data says.

    Raises:
        UserError: numbers that `eight_bits` can't read.
    """
    # Pillow would cut modes of more than 8 bits off at 255.
    if image.mode.startswith(_DEEP_MODES):
        # An old Pillow opens 16-bit PNGs as 32-bit integers.
        values = np.asarray(ImageOps.exif_transpose(image))
        sixteen = image.mode.startswith("I;16") or image.format == "PNG"
        grey = eight_bits(values.astype(np.uint16) if sixteen else values)
        return np.repeat(grey[..., None], 3, axis=-1)
    # A copy, because decoded pictures may be read-only and torch wants to own its memory.
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Pixels of any type as uint8, by the range of values that the type or the numbers tell.

    Bits are 0 or 255; unsigned 16-bit pixels are divided by 257, so that 65535 is 255; other integers are on 0..255, or where
    one is above on 0..65535; floats are on 0..1, or where one is above on 0..255.

    Raises:
        UserError: negative, infinite or undefined numbers, or larger ones.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(values.dtype, np.integer) and not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"pixels are numbers, not {values.dtype}; give uint8 RGB")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if values.dtype == np.uint16:
        scale = 1 / 257
    elif np.issubdtype(values.dtype, np.integer):
        scale = 1.0 if high <= 255 else 1 / 257
        _check_range(low, high, 65535, "0 to 255 or 0 to 65535")
    else:
        scale = 255.0 if high <= 1 else 1.0
        _check_range(low, high, 255, "0 to 1 or 0 to 255")
    return np.rint(values.astype(np.float64) * scale).astype(np.uint8)


def _check_range(low: float, high: float, most: float, allowed: str) -> None:
    """NaN is smaller and larger than nothing, so it fails both comparisons."""
    if not (low >= 0 and high <= most):
        raise UserError(f"pixels go from {low:g} to {high:g}; they must lie on {allowed}: scale them, or save 8 bits")


def _named(source: Source, what: str) -> str:
    return f"{what} '{source}'" if isinstance(source, str | Path) else f"{what} that was handed over as a file or bytes"


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def list_images(paths: list[str]) -> list[Path]:
    """Files as given and, for folders, the pictures in them (sorted, not recursive).

    Raises:
        UserError: a path does not exist, or a folder holds no picture.
    """
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise UserError(f"folder '{path}' holds no pictures ({', '.join(IMAGE_SUFFIXES)})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"input '{path}' does not exist")
    return found
