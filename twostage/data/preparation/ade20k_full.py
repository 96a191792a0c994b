"""ADE20K_2021_17_01 (A-847): object ids in two colour channels; pictures and labels reduced to a short edge of 512.

The pictures are reduced with the labels and saved again as JPEG of Pillow's default quality, as published systems do: their
figures hold at this resolution.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from twostage.data.images import open_image
from twostage.data.preparation.jobs import Convert, Job, write_labels
from twostage.errors import UserError
from twostage.files import atomic_path

IGNORE = 65535
SHORT_EDGE = 512
_SEGMENTATION = "_seg.png"


def full_jobs(source: Path, split: str, images: Path, labels: Path) -> list[Job]:
    """A job for each "ADE_<split>_*_seg.png" below `source`, wherever the scene folders are.

    The index that comes with the download is a pickle, which could run code, and is not needed: it lists the same files.
    """
    jobs = []
    for parent, _, names in os.walk(source, followlinks=True):
        for name in names:
            pieces = name.split("_")
            if name.endswith(_SEGMENTATION) and len(pieces) > 2 and pieces[1] == split:
                stem = name.removesuffix(_SEGMENTATION)
                jobs.append(Job(Path(parent, name), labels / f"{stem}.png", images / f"{stem}.jpg"))
    return sorted(jobs, key=lambda job: job.target)


def convert_full(object_ids: list[int]) -> Convert:
    """The conversion; the n-th of `object_ids` becomes label n, all others are ignored."""
    table = np.full(max(object_ids) + 1, IGNORE, np.uint16)
    table[object_ids] = np.arange(len(object_ids))
    return partial(_convert, table=table)


def _convert(job: Job, *, table: np.ndarray) -> bool:
    photo = job.source.with_name(job.source.name.removesuffix(_SEGMENTATION) + ".jpg")
    image = _pixels(photo)
    ids = object_ids_of(job.source)
    if ids.shape != image.shape[:2]:
        raise UserError(
            f"'{job.source}' is {ids.shape[0]}x{ids.shape[1]} but '{photo}' is {image.shape[0]}x{image.shape[1]} (height x "
            "width); unpack both again"
        )
    height, width = reduced_size(*ids.shape)
    if (height, width) != ids.shape:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        ids = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)
    labels = np.full(ids.shape, IGNORE, np.uint16)
    known = ids < len(table)
    labels[known] = table[ids[known]]
    with atomic_path(job.content, durable=False) as temporary:
        Image.fromarray(image).save(temporary, format="JPEG")
    # Last, because the label is what tells that both are done.
    write_labels(job.target, labels)
    return True


def object_ids_of(path: Path) -> np.ndarray:
    """int32 `[H, W]`: object ids from the colours of a "_seg.png": (R // 10) * 256 + G; 0 is nothing.

    Raises:
        UserError: unreadable, or no colour picture.
    """
    colors = _pixels(path)
    return colors[..., 0].astype(np.int32) // 10 * 256 + colors[..., 1]


def _pixels(path: Path) -> np.ndarray:
    """uint8 RGB `[H, W, 3]` as stored: turned upright by its EXIF data a photo would no longer fit its labels."""
    with open_image(path, what="original", cure="unpack the download again") as picture:
        if path.name.endswith(_SEGMENTATION) and picture.mode not in ("RGB", "RGBA"):
            raise UserError(f"label '{path}' is not in colours; is it from ADE20K_2021_17_01?")
        return np.asarray(picture.convert("RGB"))


def reduced_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) with the short edge at most 512 and the long one rounded.

    >>> reduced_size(1024, 1365)
    (512, 682)
    """
    if width >= height > SHORT_EDGE:
        return SHORT_EDGE, round(width / height * SHORT_EDGE)
    if height >= width > SHORT_EDGE:
        return round(height / width * SHORT_EDGE), SHORT_EDGE
    return height, width
