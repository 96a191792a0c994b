"""Reading pictures: one way for training, evaluation, checks, the demo and the API, with errors that name the file."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from twostage.errors import UserError
from twostage.machine import user_path

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

# Key of the text chunk that marks what twostage writes.
_MARK = "Software"

# Bytes of a PNG in which the mark lies, which is its first text chunk.
_HEAD = 4096

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
    # A pipe would be waited for.
    if isinstance(source, str | Path) and Path(source).exists() and not Path(source).is_file():
        raise UserError(f"{name} is no file; {cure}")
    with _one_error(name, cure), Image.open(source) as image:
        yield image


@contextlib.contextmanager
def _one_error(name: str, cure: str) -> Iterator[None]:
    try:
        yield
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
            return _upright(image)
        except UserError as error:
            raise UserError(f"{_named(source, 'image')}: {error}") from error


def rgb_of(image: Image.Image) -> np.ndarray:
    """The same of an image that Pillow has opened."""
    with _one_error("the PIL image", "was its file closed or cut off?"):
        return _upright(image)


def _upright(image: Image.Image) -> np.ndarray:
    if 0 in image.size:
        raise UserError(f"the picture has no pixels ({image.size[0]} x {image.size[1]})")
    # Pillow would cut modes of more than 8 bits off at 255.
    if image.mode.startswith(_DEEP_MODES):
        # An old Pillow opens 16-bit PNGs as 32-bit integers.
        values = np.asarray(ImageOps.exif_transpose(image))
        sixteen = image.mode.startswith("I;16") or image.format == "PNG"
        return np.repeat(eight_bits(values.astype(np.uint16) if sixteen else values)[..., None], 3, axis=-1)
    # A copy, because decoded pictures may be read-only and torch wants to own its memory.
    upright = ImageOps.exif_transpose(image)
    # By way of the colours with their transparency, or Pillow warns everybody that it drops that.
    if upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return np.array(upright.convert("RGB"))


def rgb_of_array(array: np.ndarray) -> np.ndarray:
    """uint8 RGB `[H, W, 3]` of an array `[H, W, 3]`, `[H, W]` or `[H, W, 1]` (grey) or `[H, W, 4]` (the fourth is dropped).

    Raises:
        UserError: another shape (says how to turn it), no pixels, or numbers that `eight_bits` can't read.
    """
    shape = list(array.shape)
    if array.ndim == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        raise UserError(f"an image array is [H, W, 3]; this is {shape}, channels first: give array.transpose(1, 2, 0)")
    if array.ndim == 4:
        raise UserError(f"an image array is [H, W, 3]; this is {shape}: give its pictures one at a time")
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        raise UserError(f"an image array must be uint8 RGB of shape [H, W, 3]; this is {array.dtype} {shape}")
    if not array.size:
        raise UserError(f"the image array {shape} has no pixels")
    channels = array[..., None] if array.ndim == 2 else array[..., :3]
    pixels = eight_bits(channels)
    return np.array(np.broadcast_to(pixels, (*shape[:2], 3)))


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
    return f"{what} '{source}'" if isinstance(source, str | Path) else f"the {what} that was handed over"


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is empty or in no format of pictures that is known"
    return " ".join(str(error).split()) or type(error).__name__


def list_images(paths: Sequence[str | Path]) -> list[Path]:
    """Files as given and, for folders, the pictures in them and in the folders below, sorted.

    Hidden files (`._a.jpg` of macOS among them) are no pictures, and neither is what twostage has written itself. Files of
    other formats that Pillow opens are taken where they are named, and told of where a folder is searched.

    Raises:
        UserError: a path does not exist, or a folder holds no picture.
    """
    found: list[Path] = []
    for name in paths:
        path = user_path(name)
        if path.is_dir():
            files = files_below(path)
            inside = [file for file in files if is_picture_name(file.name) and not is_own_output(file)]
            _tell_left_out(path, files)
            if not inside:
                raise UserError(f"folder '{path}' holds no pictures ({', '.join(IMAGE_SUFFIXES)})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"input '{path}' does not exist")
    return found


def files_below(folder: Path) -> list[Path]:
    """All files in `folder` and in the folders below that are not hidden; those of a folder before those below it."""

    def fail(error: OSError) -> None:
        raise UserError(f"folder '{error.filename}' can't be read ({error.strerror}); check its permissions")

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent) / name for name in sorted(names)]
    return found


def _tell_left_out(folder: Path, files: Sequence[Path]) -> None:
    """Log how many files of a folder may be pictures by their names, but of formats that folders are not searched for."""
    formats = Image.registered_extensions()
    endings = Counter(
        ending
        for file in files
        if not file.name.startswith(".")
        and (ending := file.suffix.lower()) not in IMAGE_SUFFIXES
        and formats.get(ending) in Image.OPEN
    )
    if endings:
        counts = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
        logger.warning(
            "Left out of folder '%s': %s; pictures in folders end in %s, others have to be named one by one",
            folder, counts, ", ".join(IMAGE_SUFFIXES),
        )  # fmt: skip


def is_picture_name(name: str) -> bool:
    """Whether a file's name is that of a picture; hidden files are none."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def own_output() -> PngInfo:
    """The mark that pictures written by twostage carry as a text chunk of their PNG."""
    mark = PngInfo()
    mark.add_text(_MARK, "twostage")
    return mark


def is_own_output(path: Path) -> bool:
    """Whether a file carries the mark of `own_output`; reads its head only."""
    if path.suffix.lower() != ".png":
        return False
    # Not by Pillow, which takes a minute for a million files.
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False  # whoever reads it says what is wrong
    return head.startswith(b"\x89PNG") and f"tEXt{_MARK}\0twostage".encode() in head


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """A name for the result of every picture: its own without suffix, numbered where another has it.

    Names that differ in upper and lower case or in how they are composed in Unicode are one name to many file systems.

    >>> unique_stems([Path("a/x.jpg"), Path("b/X.png"), Path("a/X_2.jpg")])
    ['x', 'X_2', 'X_2_2']
    """
    taken: set[str] = set()
    stems = []
    for path in paths:
        own = composed(path.stem)
        names = itertools.chain([own], (f"{own}_{number}" for number in itertools.count(2)))
        stem = next(name for name in names if name.casefold() not in taken)
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def composed(name: str) -> str:
    """A file's name in Unicode's composed form (NFC), in which names are compared: macOS decomposes them."""
    return unicodedata.normalize("NFC", name)
