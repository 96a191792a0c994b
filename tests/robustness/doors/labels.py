"""Label files: odd modes, values, sizes and damage, through the reader of labels and through `verify` of a folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from robustness.damage import damage
from robustness.trial import Door, Trial, require
from twostage.data.catalogue.folders import folder_infos
from twostage.data.labels import read_label_map
from twostage.data.preparation.verify import verify

_SIZE = (12, 16)
_CLASSES = 3


def _make(rng: np.random.Generator, kind: str) -> tuple[Image.Image, np.ndarray | None]:
    """A label picture, and its values where they are indices."""
    values = rng.integers(0, _CLASSES, _SIZE).astype(np.uint8)
    if kind == "good":
        values[0, :4] = 255
    elif kind == "outside":
        values[3, 3] = int(rng.integers(_CLASSES, 255))
    elif kind == "ignored":
        values[:] = 255
    elif kind == "0 and 255":
        values = np.where(values > 0, 255, 0).astype(np.uint8)
    elif kind == "other size":
        values = np.zeros(tuple(rng.integers(1, 30, 2) + (0, 20)), np.uint8)
    elif kind == "palette":
        image = Image.fromarray(values, mode="P")
        image.putpalette(rng.integers(0, 256, 768).tolist())
        return image, values
    elif kind == "16 bit":
        wide = values.astype(np.uint16)
        wide[0, 0] = rng.choice([0, 255, 256, 4000, 65535])
        return Image.fromarray(wide), wide
    elif kind == "bilevel":
        return Image.fromarray(values > 0), (values > 0).astype(np.uint8)
    elif kind == "float":
        fractional = values.astype(np.float32)
        fractional[0, 0] = rng.choice([0.5, -1, np.nan, np.inf, 1e30])
        return Image.fromarray(fractional), None
    elif kind == "int32":
        wide = values.astype(np.int32)
        wide[0, 0] = rng.choice([-1, 0, 2**31 - 1, -(2**31)])
        return Image.fromarray(wide), wide
    elif kind == "colours":
        return Image.fromarray(rng.integers(0, 256, (*_SIZE, 3), dtype=np.uint8)), None
    elif kind == "grey and alpha":
        return Image.fromarray(rng.integers(0, 256, (*_SIZE, 2), dtype=np.uint8), mode="LA"), None
    return Image.fromarray(values), values


_KINDS = (
    "good", "outside", "ignored", "0 and 255", "other size", "palette", "16 bit", "bilevel", "float", "int32", "colours",
    "grey and alpha",
)  # fmt: skip
_TIFF = ("float", "int32")


def _action(content: bytes, suffix: str, kind: str, values: np.ndarray | None) -> Callable[[Path], None]:
    def action(folder: Path) -> None:
        for part in ("images", "labels"):
            (folder / part).mkdir()
        good = np.arange(np.prod(_SIZE)).reshape(_SIZE) % _CLASSES
        for name in ("a", "b"):
            Image.new("RGB", _SIZE[::-1]).save(folder / "images" / f"{name}.jpg")
        Image.fromarray(good.astype(np.uint8)).save(folder / "labels" / "a.png")
        (folder / "labels" / f"b{suffix}").write_bytes(content)
        (folder / "classes.txt").write_text("cat\ndog\ngrass\n")
        (info,) = folder_infos([str(folder)])
        verdict = verify(info, workers=1)
        verdict.text()
        require(all(problem and "\n" not in problem for problem in verdict.problems), "not one sentence each")
        inside = values is not None and bool(np.isin(values, [*range(_CLASSES), 255]).all())
        # A bilevel picture holds one bit and a palette's colours may be meant: worth a word, so only values are judged.
        if values is not None and (not inside or values.shape != _SIZE):
            require(bool(verdict.problems), "verify finds nothing wrong")
        if kind in ("colours", "grey and alpha", "float"):
            require(bool(verdict.problems), "verify finds nothing wrong")
        if kind == "good" and values is not None:
            require(not verdict.problems, f"verify finds {verdict.problems} in good labels")
        read = read_label_map(folder / "labels" / f"b{suffix}")
        if values is not None:
            require(np.array_equal(read, values.astype(np.int64)), "other values than were written")

    return action


def trials(rng: np.random.Generator, count: int) -> Iterator[Trial]:
    """Every kind in turn, two thirds of them damaged."""
    for index in range(count):
        kind = _KINDS[index % len(_KINDS)]
        image, values = _make(rng, kind)
        suffix = ".tif" if kind in _TIFF else ".png"
        stream = io.BytesIO()
        image.save(stream, format="TIFF" if kind in _TIFF else "PNG")
        content, how = stream.getvalue(), "whole"
        if index // len(_KINDS) % 3:
            how, content = damage(rng, content)
            kind, values = f"{kind}, damaged", None
        yield Trial(f"{kind}{suffix}, {how} #{index}", _action(content, suffix, kind, values))


DOOR = Door("labels", trials)
