"""What counts as a picture: paths, bytes, open files, PIL images, arrays and tensors, all as RGB of 8 bits."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from twostage.data.images import read_rgb, rgb_of, rgb_of_array
from twostage.errors import UserError
from twostage.machine import user_path
from twostage.sizes import check_picture

Picture = str | os.PathLike[str] | bytes | IO[bytes] | np.ndarray | Image.Image | Tensor


def as_rgb(image: Picture) -> np.ndarray:
    """uint8 RGB `[H, W, 3]` of anything that is a picture, to be looked at as a whole.

    Paths, bytes, open files and PIL images are turned upright as their EXIF data says. Arrays are `[H, W, 3]`, `[H, W]` or
    `[H, W, 1]` (grey) or `[H, W, 4]` (the fourth channel is dropped), tensors have their channels first, and their numbers
    are read as `twostage.data.images.eight_bits` says.

    Raises:
        UserError: unreadable, too long (`twostage.sizes.LONGEST_PICTURE`), or something that is no picture; says what to give.
    """
    pixels = _as_rgb(image)
    named = f"image '{os.fspath(image)}'" if isinstance(image, str | os.PathLike) else "the picture"
    height, width = pixels.shape[:2]
    check_picture(height, width, named)
    return pixels


def _as_rgb(image: Picture) -> np.ndarray:
    if isinstance(image, bytes | bytearray | memoryview):
        return read_rgb(io.BytesIO(image))
    if isinstance(image, str | os.PathLike):
        if not os.fspath(image):
            raise UserError("the picture's path is empty; give the path of a picture")
        return read_rgb(user_path(os.fspath(image)))
    if isinstance(image, Image.Image):
        return rgb_of(image)
    if isinstance(image, Tensor):
        return rgb_of_array(_channels_last(image))
    if isinstance(image, np.ndarray):
        return rgb_of_array(image)
    if callable(getattr(image, "read", None)):
        return read_rgb(image)
    raise UserError(
        f"a picture is a path, bytes, an open file, a PIL image, an array [H, W, 3] or a tensor [3, H, W]; this is "
        f"{_described(image)}"
    )


def read_ahead(
    pictures: Iterable[Picture], *, count: int, workers: int = 1
) -> Iterator[tuple[Picture, np.ndarray | UserError]]:
    """Each picture with its pixels (`as_rgb`) or with what is wrong with it, in order.

    Args:
        count: pictures that are read in the meantime; they are held in memory. 0: each is read when it is asked for.
        workers: threads that read.

    Raises:
        UserError: `count` is negative.
    """
    if count < 0:
        raise UserError(f"pictures read ahead are {count}; give 0 or more")
    return _read_ahead(iter(pictures), count, workers)


def _read_ahead(
    pictures: Iterator[Picture], count: int, workers: int
) -> Iterator[tuple[Picture, np.ndarray | UserError]]:
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="pictures")
    waiting: deque[tuple[Picture, Future[np.ndarray | UserError]]] = deque()
    try:
        for picture in pictures:
            waiting.append((picture, pool.submit(_pixels_or_error, picture)))
            if len(waiting) > count:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    finally:
        # Also where nobody asks for the rest.
        pool.shutdown(cancel_futures=True)


def _pixels_or_error(picture: Picture) -> np.ndarray | UserError:
    try:
        return as_rgb(picture)
    except UserError as error:
        return error


def _channels_last(image: Tensor) -> np.ndarray:
    """A tensor `[C, H, W]` or `[H, W]` as an array `[H, W, C]` or `[H, W]`."""
    array = image.detach().cpu()
    if array.dtype in (torch.bfloat16, torch.float16):
        array = array.float()
    if array.ndim == 3 and array.shape[0] not in (1, 3, 4) and array.shape[2] in (1, 3, 4):
        raise UserError(f"an image tensor is [3, H, W]; this is {list(array.shape)}: give tensor.permute(2, 0, 1)")
    return (array.permute(1, 2, 0) if array.ndim == 3 else array).numpy()


def _described(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value).__name__
    return (
        f"a {kind} of {len(value)} entries; give them one at a time" if isinstance(value, list | tuple) else f"a {kind}"
    )
