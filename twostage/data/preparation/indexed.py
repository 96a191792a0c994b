"""Originals that hold one index per pixel in 8 bits: every value is looked up in a table of 256."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from twostage.data.labels import read_label_map
from twostage.data.preparation.jobs import Convert, Job, write_labels
from twostage.errors import UserError

IGNORE = 255
# In the tables: values that no original holds.
INVALID = -1


def convert_by(table: Sequence[int], *, original: str, drop_empty: bool = False) -> Convert:
    """The conversion by `table` (256 entries: label, or INVALID).

    Args:
        original: what the files are, for error messages.
        drop_empty: write nothing where only ignored pixels would be left (PASCAL VOC).
    """
    if len(table) != 256:
        raise ValueError(f"a table has 256 entries, not {len(table)}")
    return partial(_convert, table=tuple(table), original=original, drop_empty=drop_empty)


def _convert(job: Job, *, table: tuple[int, ...], original: str, drop_empty: bool) -> bool:
    pixels = read_label_map(job.source)
    if pixels.size and pixels.max() > 255:
        raise UserError(f"label '{job.source}' has more than 8 bits; it is not from {original}")
    labels = np.array(table, np.int16)[pixels]
    if labels.min(initial=0) == INVALID:
        value = int(pixels[labels == INVALID][0])
        raise UserError(
            f"label '{job.source}' holds the value {value}, which {original} never does; is it that download?"
        )
    if drop_empty and (labels == IGNORE).all():
        return False
    write_labels(job.target, labels.astype(np.uint8))
    return True


def coco_stuff_table(unused: Sequence[int]) -> list[int]:
    """Pixel (COCO id - 1, 255 = unlabelled) -> 0..170, the 11 unused ids ignored."""
    table = [INVALID] * 256
    for pixel in range(182):
        table[pixel] = IGNORE
    for label, coco_id in enumerate(i for i in range(1, 183) if i not in unused):
        table[coco_id - 1] = label
    table[255] = IGNORE
    return table


def coco_object_table(unused: Sequence[int]) -> list[int]:
    """Pixel of COCO-Stuff -> 1..80 for the things (ids up to 90), 0 for stuff and for unlabelled pixels."""
    table = [0 if pixel < 182 or pixel == 255 else INVALID for pixel in range(256)]
    for label, coco_id in enumerate((i for i in range(1, 91) if i not in unused), start=1):
        table[coco_id - 1] = label
    return table


def ade20k_150_table() -> list[int]:
    """0 = other, 1..150 -> 255, 0..149."""
    return [IGNORE, *range(150), *[INVALID] * 105]


def voc_table(*, background: int) -> list[int]:
    """VOC ids -> 0..19, 0 -> `background`, the border (255) ignored; `background` 0 leaves all ids as they are."""
    things = list(range(1, 21)) if background == 0 else list(range(20))
    return [background, *things, *[INVALID] * 234, IGNORE]


def cityscapes_table(ids: Sequence[int]) -> list[int]:
    """labelIds -> trainIds 0..18; all other ids (also -1, stored as 255) ignored."""
    table = [IGNORE] * 256
    for label, label_id in enumerate(ids):
        table[label_id] = label
    return table


def subset_table(table: Sequence[int], kept: Sequence[int]) -> list[int]:
    """`table` with the labels of `kept` renumbered 0, 1, ... and all others ignored."""
    new = {label: index for index, label in enumerate(kept)}
    return [value if value in (IGNORE, INVALID) else new.get(value, IGNORE) for value in table]


def file_jobs(source: Path, target: Path, *, suffix: str = ".png", new_suffix: str = ".png") -> list[Job]:
    """A job for every file below `source` that ends in `suffix`; folders below are kept."""
    files = sorted(source.rglob(f"*{suffix}"))
    return [
        Job(file, target / file.relative_to(source).with_name(file.name.removesuffix(suffix) + new_suffix))
        for file in files
    ]
