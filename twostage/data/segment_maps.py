"""Panoptic labels in COCO's format: a PNG of segment ids per picture, and a json that says what the segments are.

A segment map holds one id per pixel, 0 for none; on disk a PNG with id = R + 256 G + 65536 B (cocodataset.org, "Format data",
4. Panoptic segmentation). The json has `images`, `categories` and, per picture in `annotations`, `segments_info` with `id`,
`category_id`, `area` (pixels), `bbox` (x, y, width, height in pixels) and `iscrowd`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import Image

from twostage.data.images import open_image
from twostage.data.labels import MADE_AGAIN
from twostage.errors import UserError
from twostage.files import atomic_path, write_text

Segment = Mapping[str, Any]
Ids = TypeVar("Ids", int, np.ndarray)
# The ids that we give ourselves: 1000 * (class + 1) + number, which tells the class again.
_PER_CLASS = 1000
# What to do where a segment map and its json tell of different segments.
_AGREE = "PNG and json must be of one version: replace both, or leave such pictures out by --skip-broken"


def segment_id(category: Ids, number: Ids) -> Ids:
    """The id of thing `number` (from 1) of class `category` in a picture; 0 for stuff, which has one segment."""
    return _PER_CLASS * (category + 1) + number


def category_of(segment: Ids) -> Ids:
    """The class of an id that `segment_id` made."""
    return segment // _PER_CLASS - 1


def read_segment_map(path: str | Path) -> np.ndarray:
    """`[H, W]` int64 segment ids of a panoptic PNG. Raises UserError naming the file."""
    with open_image(path, what="panoptic label", cure=MADE_AGAIN) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise UserError(f"panoptic label '{path}' is of mode {image.mode}; ids are stored as RGB pictures")
        values = np.asarray(image.convert("RGB")).astype(np.int64)
    return values @ np.array([1, 256, 65536])


def check_segments(present: Iterable[int], segments: Sequence[Segment], path: str | Path) -> None:
    """See that the segment map in `path` and what its json lists are the same segments, as panopticapi does.

    Args:
        present: the ids in the map.

    Raises:
        UserError: an id that is not listed (its pixels would be in no mask), or a listed one without a pixel (an empty mask).
    """
    found, listed = set(present) - {0}, {int(segment["id"]) for segment in segments}
    if found - listed:
        raise UserError(
            f"panoptic label '{path}' holds id {min(found - listed)}, which its json does not list; {_AGREE}"
        )
    if listed - found:
        raise UserError(
            f"panoptic label '{path}' has no pixel of segment {min(listed - found)}, which its json lists; {_AGREE}"
        )


def write_segment_map(path: str | Path, ids: np.ndarray) -> None:
    """Write segment ids `[H, W]` (below 2^24) as PNG, whole or not at all."""
    with atomic_path(path, durable=False) as temporary:
        Image.fromarray(segment_map_to_rgb(ids)).save(temporary, format="PNG")


def segment_map_to_rgb(ids: Any) -> np.ndarray:
    """uint8 `[H, W, 3]` picture of segment ids (array or tensor), the inverse of `read_segment_map`."""
    values = np.asarray(ids).astype(np.int64)
    return np.stack([values % 256, values // 256 % 256, values // 65536], axis=-1).astype(np.uint8)


def describe_segments(
    ids: np.ndarray, category: Callable[[int], int], *, is_crowd: Callable[[int], bool] = lambda _: False
) -> list[dict[str, Any]]:
    """`segments_info` of a segment map `[H, W]`, in ascending order of the ids.

    Args:
        category: the `category_id` of a segment id.
        is_crowd: whether a segment id stands for several things that nobody told apart.
    """
    found = []
    for segment in np.unique(ids[ids != 0]).tolist():
        mask = ids == segment
        found.append(
            {
                "id": segment,
                "category_id": category(segment),
                "area": int(mask.sum()),
                "bbox": [int(value) for value in cv2.boundingRect(mask.astype(np.uint8))],
                "iscrowd": int(is_crowd(segment)),
            }
        )
    return found


def write_panoptic_json(
    path: str | Path,
    *,
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
    info: Mapping[str, Any],
) -> None:
    """Write COCO's panoptic json atomically; `info` says what made it."""
    content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    write_text(path, json.dumps(content) + "\n")


def read_panoptic_json(path: str | Path) -> dict[str, Any]:
    """The content of a panoptic json.

    Raises:
        UserError: it can't be read, or is another kind of json.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        for entry in content["annotations"]:
            if not isinstance(entry["file_name"], str) or not isinstance(entry["segments_info"], list):
                raise TypeError("an annotation without segments")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"'{path}' can't be read as panoptic json ({type(error).__name__}: {error}); {MADE_AGAIN}"
        ) from error
    return content
