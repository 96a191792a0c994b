"""COCO's panoptic and stuff formats (cocodataset.org, "Format data"); instances are `to_coco` of a result.

A file of panoptic segments is a PNG whose colours are ids, R + 256 G + 65536 B, and an entry in a json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from twostage.data.segment_maps import segment_map_to_rgb
from twostage.errors import UserError, near_names
from twostage.files import write_text
from twostage.results.panoptic import PanopticSegmentation
from twostage.results.saving import save_picture
from twostage.results.shapes import box


def annotation(result: PanopticSegmentation, *, image_id: int, file_name: str) -> dict[str, Any]:
    """The entry of one picture; category ids count from 1. `file_name` is that of the PNG."""
    return {
        "image_id": image_id,
        "file_name": file_name,
        "segments_info": [
            {
                "id": segment["id"],
                "category_id": segment["category_id"] + 1,
                "area": int((result.ids == segment["id"]).sum()),
                "bbox": list(box(result.ids == segment["id"])),
                "iscrowd": 0,
            }
            for segment in result.segments
        ],
    }


def write_panoptic(results: Iterable[tuple[str, PanopticSegmentation]], folder: Path, *, things: Sequence[str]) -> Path:
    """Write `panoptic.json` and a PNG per picture beside it; returns the json's path.

    Args:
        results: each picture's file name and its segments; all have the same names.
        things: names that are countable.

    Raises:
        UserError: a file is there already, the results differ in their names, or a thing is none of them.
    """
    whole: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    names: Sequence[str] | None = None
    path = folder / "panoptic.json"
    refuse_to_replace(path)
    for number, (picture, result) in enumerate(results, start=1):
        if names is not None and result.names != names:
            raise UserError(f"'{picture}' was segmented into other names; write its results into a folder of their own")
        if names is None and (unknown := [name for name in things if name not in result.names]):
            raise UserError(f"thing {unknown[0]!r} is not in the vocabulary{near_names(unknown[0], result.names)}")
        names = result.names
        png = f"{Path(picture).stem}.png"
        refuse_to_replace(folder / png)
        save_picture(Image.fromarray(segment_map_to_rgb(result.ids)), folder / png)
        height, width = result.ids.shape
        whole["images"].append({"id": number, "file_name": picture, "height": height, "width": width})
        whole["annotations"].append(annotation(result, image_id=number, file_name=png))
    whole["categories"] = [
        {"id": index, "name": name, "isthing": int(name in things), "supercategory": ""}
        for index, name in enumerate(names or (), start=1)
    ]
    write_text(path, json.dumps(whole, ensure_ascii=False) + "\n")
    return path


def read_panoptic(path: Path) -> dict[str, tuple[np.ndarray, dict[int, int]]]:
    """File name of each picture -> ids int `[H, W]` and, per id, the index of its name."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    pictures = {entry["id"]: entry["file_name"] for entry in whole["images"]}
    found = {}
    for entry in whole["annotations"]:
        with Image.open(path.parent / entry["file_name"]) as picture:
            rgb = np.asarray(picture).astype(np.int64)
        ids = rgb @ np.array([1, 256, 65536])
        classes = {segment["id"]: segment["category_id"] - 1 for segment in entry["segments_info"]}
        found[pictures[entry["image_id"]]] = (ids, classes)
    return found


def refuse_to_replace(path: Path) -> None:
    """UserError where `path` is there: labels are written beside what exists, never over it."""
    if path.exists():
        raise UserError(f"'{path}' is there already and would be replaced; choose another folder, or remove it")


def classes_of(whole: Mapping[str, Any]) -> list[str]:
    """The names in a panoptic json, in their order."""
    return [entry["name"] for entry in whole["categories"]]
