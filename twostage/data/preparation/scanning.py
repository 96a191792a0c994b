"""What can be measured of each label map and its picture, for `verify`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from twostage.data.images import open_image, read_rgb
from twostage.data.labels import Color, is_color_picture, palette_of, read_label_map
from twostage.errors import UserError

_VOC_BITS = 8
# Share of ignored pixels from which on little of a label map is left.
_MOSTLY = 0.9


@dataclasses.dataclass(frozen=True)
class FileFacts:
    """One label map.

    Attributes:
        file: its path.
        values: value -> pixels; empty where it can't be read.
        bits: 8, 16, ...
        colors: some of its colours, where it is a colour picture.
        palette: value -> colour, of a palette picture.
        size, image_size: (width, height), of the picture turned upright; None where it can't be read.
        error: why label or picture can't be read.
    """

    file: str
    values: dict[int, int]
    bits: int
    colors: frozenset[Color]
    palette: dict[int, Color]
    size: tuple[int, int] | None
    image_size: tuple[int, int] | None
    error: str | None


def scan(record: dict[str, Any], *, class_colors: Sequence[Color] | None = None) -> FileFacts:
    """The facts of a record's label map and picture; decodes both.

    Args:
        class_colors: of the classes, where they are known.
    """
    file, errors = record["sem_seg_file_name"], []
    values: dict[int, int] = {}
    size, bits, colors, palette = None, 0, frozenset[Color](), dict[int, Color]()
    try:
        with open_image(file, what="label file") as picture:
            size, bits = picture.size, 16 if picture.mode.startswith(("I", "F")) else 8
            palette = palette_of(picture)
        if is_color_picture(file, class_colors):
            colors = frozenset(_some_colors(file))
        if not colors:
            found, counts = np.unique(read_label_map(file), return_counts=True)
            values = {int(value): int(count) for value, count in zip(found, counts, strict=True)}
    except UserError as error:
        errors.append(str(error))
    image_size = None
    try:
        height, width = read_rgb(record["file_name"]).shape[:2]
        image_size = width, height
    except UserError as error:
        errors.append(str(error))
    return FileFacts(file, values, bits, colors, palette, size, image_size, errors[0] if errors else None)


def _some_colors(file: str, limit: int = 64) -> list[Color]:
    with open_image(file, what="label file") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    return [(int(r), int(g), int(b)) for r, g, b in np.unique(pixels, axis=0)[:limit]]


@dataclasses.dataclass
class Totals:
    """All label maps of a split together.

    Attributes:
        pixels: value -> pixels.
        first_file: value -> a file that holds it.
        only_eight_bits: files of 8 bits.
        colored: colour pictures.
        colors: their colours.
        palette, other_palette: value -> its colour in the first palette picture, and a file where it has another one.
        mostly_ignored: files of which most pixels are ignored.
        other_size: files whose picture has another size, with both sizes in words.
        errors: files that can't be read.
        largest_short_edge: in pixels.
        ignore_label: of the dataset.
    """

    files: int = 0
    pixels: Counter[int] = dataclasses.field(default_factory=Counter)
    first_file: dict[int, str] = dataclasses.field(default_factory=dict)
    only_eight_bits: list[str] = dataclasses.field(default_factory=list)
    colored: list[str] = dataclasses.field(default_factory=list)
    colors: set[Color] = dataclasses.field(default_factory=set)
    palette: dict[int, Color] = dataclasses.field(default_factory=dict)
    other_palette: dict[int, str] = dataclasses.field(default_factory=dict)
    mostly_ignored: list[str] = dataclasses.field(default_factory=list)
    other_size: list[str] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)
    largest_short_edge: int = 0
    ignore_label: int = 255

    def add(self, facts: FileFacts) -> None:
        """Count one file."""
        self.files += 1
        self.pixels.update(facts.values)
        if facts.values.get(self.ignore_label, 0) > _MOSTLY * sum(facts.values.values()):
            self.mostly_ignored.append(facts.file)
        for value, color in facts.palette.items():
            if self.palette.setdefault(value, color) != color:
                self.other_palette.setdefault(value, facts.file)
        for value in facts.values:
            self.first_file.setdefault(value, facts.file)
        if facts.error:
            self.errors.append(facts.error)
        if facts.colors:
            self.colored.append(facts.file)
            self.colors |= facts.colors
        elif facts.bits == 8 and facts.values:
            self.only_eight_bits.append(facts.file)
        if facts.size and facts.image_size and facts.size != facts.image_size:
            sizes = f"{facts.size[0]} x {facts.size[1]}, its picture {facts.image_size[0]} x {facts.image_size[1]}"
            self.other_size.append(f"'{facts.file}' is {sizes} (width x height)")
        if facts.size:
            self.largest_short_edge = max(self.largest_short_edge, min(facts.size))

    def share(self, value: int) -> float:
        """Share of all pixels that hold `value`."""
        total = sum(self.pixels.values())
        return self.pixels[value] / total if total else 0.0


def voc_colors() -> list[tuple[int, int, int]]:
    """The 256 colours of PASCAL VOC's palette: the bits of the index dealt out to R, G and B from the highest down."""
    colors = []
    for index in range(256):
        rgb = [0, 0, 0]
        for bit in range(_VOC_BITS):
            rgb[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        colors.append((rgb[0], rgb[1], rgb[2]))
    return colors


def grey_of(color: tuple[int, int, int]) -> int:
    """What Pillow makes of a colour in a grey picture."""
    return int(np.asarray(Image.new("RGB", (1, 1), color).convert("L"))[0, 0])
