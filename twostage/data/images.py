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
    name = f"{what} '{source}'" if isinstance(source, str | Path) else f"{what} that was handed over as a file or bytes"
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
        UserError: see `open_image`.
    """
    with open_image(source) as image:
        return rgb_of(image)


def rgb_of(image: Image.Image) -> np.ndarray:
    """uint8 RGB `[H, W, 3]` of a PIL image, turned upright as its EXIF data says."""
    # A copy, because decoded pictures may be read-only and torch wants to own its memory.
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


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
