"""Pictures: odd kinds of files and damaged ones, through the reader, the API and the listing of folders."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from robustness.damage import damage
from robustness.trial import Door, Trial, require
from twostage.api import Segmenter, load
from twostage.data.images import list_images, read_rgb

_SIZES = ((1, 1), (1, 40), (40, 1), (2, 3), (31, 47), (64, 64), (1, 3000), (2500, 2), (5, 900))
_NO_PICTURES = (
    b"", b"\0", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 ", b"II*\0\x08\0\0\0", b"BM",
    b"<html><body>404</body></html>", b"version https://git-lfs.github.com/spec/v1\n", b"%PDF-1.4\n", b"PK\x03\x04",
    b"P6\n99999 99999\n255\n", b"P5 1 1 255 ", b"\x00\x00\x01\x00\x01\x00", b"8BPS\0\x01",
)  # fmt: skip


@functools.cache
def segmenter() -> Segmenter:
    """The fastest of the toybox systems."""
    return load("toybox/maskclip", device="cpu", opts=["MODEL.CLIP.TEXT_CACHE", ""])


def _pixels(rng: np.random.Generator, size: tuple[int, int], *channels: int) -> np.ndarray:
    return rng.integers(0, 256, (*size, *channels), dtype=np.uint8)


def _rgb(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, str, dict, np.ndarray | None]:
    pixels = _pixels(rng, size, 3)
    suffix = str(rng.choice([".png", ".bmp", ".tif", ".jpg", ".webp"]))
    return Image.fromarray(pixels), suffix, {}, pixels if suffix in (".png", ".bmp", ".tif") else None


def _grey(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, str, dict, np.ndarray | None]:
    pixels = _pixels(rng, size)
    return Image.fromarray(pixels), ".png", {}, np.repeat(pixels[..., None], 3, axis=2)


def _bilevel(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, str, dict, np.ndarray | None]:
    pixels = _pixels(rng, size) > 127
    return Image.fromarray(pixels), ".png", {}, np.repeat(255 * pixels.astype(np.uint8)[..., None], 3, axis=2)


def _palette(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, str, dict, np.ndarray | None]:
    colors, indices = _pixels(rng, (256, 3)), _pixels(rng, size)
    image = Image.fromarray(indices, mode="P")
    image.putpalette(colors.ravel().tolist())
    return image, ".png", {}, colors[indices]


def _alpha(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, str, dict, np.ndarray | None]:
    return Image.fromarray(_pixels(rng, size, 4), mode="RGBA"), ".png", {}, None


def _cmyk(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, str, dict, np.ndarray | None]:
    return Image.fromarray(_pixels(rng, size, 4), mode="CMYK"), str(rng.choice([".jpg", ".tif"])), {}, None


def _sixteen(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, str, dict, np.ndarray | None]:
    values = rng.integers(0, 65536, size, dtype=np.uint16)
    grey = np.round(values / 257).astype(np.uint8)
    return Image.fromarray(values), str(rng.choice([".png", ".tif"])), {}, np.repeat(grey[..., None], 3, axis=2)


def _float(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, str, dict, np.ndarray | None]:
    scale = float(rng.choice([1.0, 255.0, 1e6, -3.0]))
    values = (scale * rng.random(size)).astype(np.float32)
    if rng.random() < 0.3:
        values.flat[0] = rng.choice([np.nan, np.inf, -np.inf])
    return Image.fromarray(values), ".tif", {}, None


def _int32(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, str, dict, np.ndarray | None]:
    return Image.fromarray(rng.integers(-(2**31), 2**31 - 1, size).astype(np.int32)), ".tif", {}, None


def _turned(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, str, dict, np.ndarray | None]:
    pixels, turn = _pixels(rng, size, 3), int(rng.integers(0, 12))
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = {
        2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1), 7: np.rot90(pixels, 2).transpose(1, 0, 2), 8: np.rot90(pixels),
    }.get(turn, pixels)  # fmt: skip
    return Image.fromarray(pixels), ".png", {"exif": exif.tobytes()}, upright


def _animated(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, str, dict, np.ndarray | None]:
    frames = [Image.fromarray(_pixels(rng, size, 3)) for _ in range(3)]
    suffix = str(rng.choice([".png", ".tif"]))
    return frames[0], suffix, {"save_all": True, "append_images": frames[1:]}, np.asarray(frames[0])


_KINDS = (_rgb, _grey, _bilevel, _palette, _alpha, _cmyk, _sixteen, _float, _int32, _turned, _animated)


def _check(pixels: np.ndarray) -> None:
    require(pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, f"{pixels.dtype} {pixels.shape}")


def _read(content: bytes, suffix: str, expected: np.ndarray | None, *, encode: bool) -> Callable[[Path], None]:
    def action(folder: Path) -> None:
        path = folder / f"picture{suffix}"
        path.write_bytes(content)
        pixels = read_rgb(path)
        _check(pixels)
        if expected is not None:
            require(pixels.shape == expected.shape, f"size {pixels.shape} instead of {expected.shape}")
            # 16 bits may be rounded either way.
            require(int(np.abs(pixels.astype(int) - expected.astype(int)).max()) <= 1, "other pixels than were written")
        if encode:
            require(np.array_equal(segmenter().encode(path).pixels, pixels), "the API reads another picture")

    return action


def _files(rng: np.random.Generator, count: int) -> Iterator[Trial]:
    for index in range(count):
        kind = _KINDS[index % len(_KINDS)]
        size = _SIZES[int(rng.integers(len(_SIZES)))]
        image, suffix, options, expected = kind(rng, size)
        stream = io.BytesIO()
        form = {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper())
        image.save(stream, format=form, **options)
        content, how = stream.getvalue(), "whole"
        if index % 3:
            how, content = damage(rng, content)
            expected = None
        if rng.random() < 0.1:
            suffix = str(rng.choice([".jpg", ".png", ".TIFF", ".webp"]))
        name = f"{kind.__name__[1:]}{suffix} {size[1]} x {size[0]}, {how} #{index}"
        yield Trial(name, _read(content, suffix, expected, encode=index % 4 == 0))
    for content in _NO_PICTURES[: max(4, count // 8)]:
        suffix = str(rng.choice([".jpg", ".png", ".tif"]))
        yield Trial(f"{content[:12]!r}{suffix}", _read(content, suffix, None, encode=True))


def _values(rng: np.random.Generator) -> list[object]:
    grey = _pixels(rng, (20, 30))
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, format="PNG")
    png = stream.getvalue()
    return [
        None, [], {}, 3, 0.5, True, "", ".", "/", "\0", "no/such.png", Path(), Path("/dev/null"), b"", b"no picture", png,
        io.BytesIO(png), io.BytesIO(b""), io.StringIO("text"), object(), [png], ["a.png"], (1, 2, 3),
        np.zeros(()), np.zeros(3, np.uint8), np.zeros((0, 0, 3), np.uint8), np.zeros((4, 0, 3), np.uint8), grey,
        grey[..., None], _pixels(rng, (3, 20, 30)), _pixels(rng, (20, 30), 4), _pixels(rng, (20, 30), 2),
        _pixels(rng, (1, 20, 30), 3), grey > 9, np.zeros((8, 8, 3), np.float32), np.full((8, 8, 3), np.nan),
        np.full((8, 8, 3), 300), np.full((8, 8, 3), -1), np.zeros((8, 8, 3), complex), np.array("text"),
        np.array([[None]]), np.zeros((8, 8, 3), np.uint16), np.zeros((8, 8, 3), "datetime64[s]"),
        torch.zeros(3, 8, 8), torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(3, 0, 5, dtype=torch.uint8),
        torch.zeros((), dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.bfloat16), torch.zeros(2, 3, 8, 8),
        Image.new("RGB", (0, 0)), Image.new("L", (5, 0)), Image.new("RGB", (1, 1)), Image.new("LAB", (9, 9)),
        Image.new("I;16", (9, 9)), Image.new("F", (9, 9)), Image.new("HSV", (9, 9)),
    ]  # fmt: skip


def _given(value: object) -> Callable[[Path], None]:
    def action(_folder: Path) -> None:
        pixels = segmenter().encode(value).pixels  # type: ignore[arg-type]
        _check(pixels)

    return action


def _listing(names: list[str]) -> Callable[[Path], None]:
    def action(folder: Path) -> None:
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        found = [path.name for path in list_images([str(folder)])]
        require(found == sorted(found), "not sorted")
        require(all(not name.startswith(".") for name in found), f"a hidden file is taken for a picture: {found}")

    return action


def trials(rng: np.random.Generator, count: int) -> Iterator[Trial]:
    """Files, then values for the API, then folders."""
    segmenter()
    values = _values(rng)
    few = max(6, count // 4)
    for index in rng.permutation(len(values))[:few]:
        value = values[index]
        text = f"{type(value).__name__} {getattr(value, 'shape', '') or getattr(value, 'mode', '') or repr(value)[:30]}"
        yield Trial(f"given: {text} #{index}", _given(value))
    for names in (["._a.jpg", "a.jpg"], [".hidden.png"], [], ["a.txt"], ["b.JPG", "a.Png", "x/c.jpg"], ["a.jpg/b"])[
        :few
    ]:
        yield Trial(f"folder of {names}", _listing(names))
    yield from _files(rng, max(1, count - few - 6 - min(len(_NO_PICTURES), max(4, count // 8))))


DOOR = Door("pictures", trials)
