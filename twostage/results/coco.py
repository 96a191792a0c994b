"""Masks as COCO's json (cocodataset.org, "Format data"), which labelling tools and pycocotools read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from twostage.results.shapes import box, rle


class Part(NamedTuple):
    """A mask, bool `[H, W]`, and the index of its name."""

    category: int
    mask: np.ndarray


def coco_json(
    parts: Iterable[Part], names: Sequence[str], size: tuple[int, int], *, image_id: int = 1, file_name: str = ""
) -> dict[str, Any]:
    """One picture and its parts: `info`, `images`, `annotations`, `categories`.

    Category ids count from 1, as in COCO; every name is a category. Annotations have `segmentation` (compressed run lengths),
    `area` (pixels), `bbox` (x, y, width, height) and `iscrowd` 0.
    """
    height, width = size
    annotations = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": part.category + 1,
            "segmentation": rle(part.mask),
            "area": int(part.mask.sum()),
            "bbox": list(box(part.mask)),
            "iscrowd": 0,
        }
        for number, part in enumerate(parts, start=1)
    ]
    return {
        "info": {"description": "twostage"},
        "images": [{"id": image_id, "file_name": file_name, "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(names, start=1)],
    }


def joined(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One json of those of several pictures that share their names; pictures and annotations are numbered anew.

    >>> joined([coco_json([], ["cat"], (2, 3)), coco_json([], ["cat"], (4, 5))])["images"][1]["id"]
    2
    """
    whole: dict[str, Any] = {"info": {"description": "twostage"}, "images": [], "annotations": [], "categories": []}
    for part in parts:
        first = len(whole["images"]) + 1
        numbers = {image["id"]: first + i for i, image in enumerate(part["images"])}
        whole["images"] += [{**image, "id": numbers[image["id"]]} for image in part["images"]]
        for annotation in part["annotations"]:
            number = len(whole["annotations"]) + 1
            whole["annotations"].append({**annotation, "id": number, "image_id": numbers[annotation["image_id"]]})
        whole["categories"] = part["categories"]
    return whole
