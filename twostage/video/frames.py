"""Frames in and label videos out (PyAV)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twostage.data.images import list_images, read_rgb
from twostage.errors import UserError
from twostage.files import atomic_path

# Of a folder of frames, which does not say.
_RATE = Fraction(25)


class Frame(NamedTuple):
    """A picture uint8 RGB `[H, W, 3]` and its time in seconds."""

    pixels: np.ndarray
    seconds: float


class Frames(NamedTuple):
    """Frames in order, and how many there are a second."""

    frames: Iterator[Frame]
    rate: Fraction


def read_frames(source: Path) -> Frames:
    """Of a video file, turned upright as it says, or a folder of pictures, sorted by name, numbers by what they count.

    Raises:
        UserError: no such file, no video, no pictures, or PyAV is not installed; while frames are read, one that is damaged.
    """
    if source.is_dir():
        paths = sorted(list_images([source]), key=lambda path: natural(path.relative_to(source).as_posix()))
        return Frames((Frame(read_rgb(path), float(i / _RATE)) for i, path in enumerate(paths)), _RATE)
    if not source.exists():
        raise UserError(f"video '{source}' does not exist; give a video file or a folder of frames")
    av = _av()
    try:
        with av.open(str(source)) as container:
            rate = Fraction(container.streams.video[0].average_rate or _RATE)
    except (av.error.FFmpegError, IndexError) as error:
        raise UserError(
            f"'{source}' can't be read as a video ({error}); convert it to mp4, or give a folder"
        ) from error
    return Frames(_decoded(source, rate), rate)


def natural(name: str) -> list[tuple[int, str]]:
    """A key by which frame2 comes before frame10.

    >>> sorted(["f10.png", "f2.png", "e3.png", "2.png"], key=natural)
    ['2.png', 'e3.png', 'f2.png', 'f10.png']
    """
    parts = re.split(r"([0-9]+)", name)
    # Behind a text comes a number: text alone, then number and the text behind it.
    return [(-1, parts[0]), *((int(number), text) for number, text in zip(parts[1::2], parts[2::2], strict=True))]


def _decoded(source: Path, rate: Fraction) -> Iterator[Frame]:
    av = _av()
    done = 0
    with av.open(str(source)) as container:
        frames = container.decode(video=0)
        while True:
            try:
                frame = next(frames, None)
            except av.error.FFmpegError as error:
                raise UserError(
                    f"video '{source}' is damaged behind {done} frames ({error}); mend it, as by `ffmpeg -err_detect "
                    "ignore_err`, or cut it there"
                ) from error
            if frame is None:
                return
            seconds = float(done / rate) if frame.time is None else float(frame.time)
            done += 1
            # Telephones hold their pictures as the sensor lies, and say how to turn them, counter-clockwise.
            yield Frame(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)).copy(), seconds)


@contextlib.contextmanager
def video_writer(path: Path, rate: Fraction, *, lossless: bool) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends a picture uint8, grey `[H, W]` where `lossless` (FFV1), else RGB `[H, W, 3]` (H.264 or MPEG-4).

    The file is there when the block succeeds. Sides that are odd lose a pixel in the lossy form.
    """
    av = _av()
    codec = "ffv1" if lossless else _lossy_codec()
    layout = "matroska" if lossless else "mp4"
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format=layout) as container:
        stream: Any = None

        def write(picture: np.ndarray) -> None:
            nonlocal stream
            if not lossless:
                picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
            if stream is None:
                stream = container.add_stream(codec, rate=rate)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "gray" if lossless else "yuv420p"
            if picture.shape[:2] != (stream.height, stream.width):
                raise UserError(
                    f"a frame is {picture.shape[1]}x{picture.shape[0]} (width x height), those before {stream.width}x"
                    f"{stream.height}; a video has one size: put frames of each size into a folder of their own"
                )
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray" if lossless else "rgb24")
            container.mux(stream.encode(frame))

        yield write
        if stream is not None:
            container.mux(stream.encode())


def _lossy_codec() -> str:
    return "libx264" if "libx264" in _av().codecs_available else "mpeg4"


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError(
            "videos need PyAV: pip install 'twostage[video]'; a folder of frames needs it for output"
        ) from error
    return av
