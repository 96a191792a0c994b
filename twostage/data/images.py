"""Reading pictures, with an error that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from detectron2.data import detection_utils
from PIL import Image, UnidentifiedImageError

from twostage.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_rgb(path: str | Path) -> np.ndarray:
    """The picture at `path` as uint8 RGB `[H, W, 3]`, turned upright as its EXIF data says.

    Raises:
        UserError: missing, unreadable or not a picture.
    """
    try:
        # A copy, because decoded pictures may be read-only and torch wants to own its memory.
        return np.array(detection_utils.read_image(str(path), format="RGB"))
    except FileNotFoundError as error:
        raise UserError(f"image '{path}' does not exist") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"image '{path}' can't be read ({' '.join(str(error).split())}); replace or remove it"
        ) from error


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
