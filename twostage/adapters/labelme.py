"""LabelMe's json: a shape of type "mask" per part of a name, which has holes as they are."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from twostage.adapters.coco_panoptic import refuse_to_replace
from twostage.files import write_text
from twostage.results.segmentation import Segmentation

# The version of the format in which masks came.
_VERSION = "5.5.0"


def to_labelme(result: Segmentation, file_name: str) -> dict[str, Any]:
    """The json of one picture; the picture itself is named, not held."""
    height, width = result.labels.shape
    shapes: list[dict[str, Any]] = []
    for name in result.areas():
        count, parts = cv2.connectedComponents(result.mask(name).astype(np.uint8), connectivity=4)
        for part in range(1, count):
            x, y, w, h = cv2.boundingRect((parts == part).astype(np.uint8))
            inside = parts[y : y + h, x : x + w] == part
            shapes.append(
                {
                    "label": name,
                    # LabelMe's corners are the first and the last pixel.
                    "points": [[float(x), float(y)], [float(x + w - 1), float(y + h - 1)]],
                    "group_id": None,
                    "description": "",
                    "shape_type": "mask",
                    "flags": {},
                    "mask": _encoded(inside),
                }
            )
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": file_name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def from_labelme(content: dict[str, Any], names: list[str]) -> np.ndarray:
    """Labels int `[H, W]`, -1 for none, from shapes of type "mask"."""
    labels = np.full((content["imageHeight"], content["imageWidth"]), -1)
    for shape in content["shapes"]:
        (left, top), _ = shape["points"]
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as picture:
            inside = np.asarray(picture).astype(bool)
        height, width = inside.shape
        labels[int(top) : int(top) + height, int(left) : int(left) + width][inside] = names.index(shape["label"])
    return labels


def write_labelme(result: Segmentation, picture: Path) -> Path:
    """Write the json beside the picture, where LabelMe looks for it. Raises UserError where one is there already."""
    path = picture.with_suffix(".json")
    refuse_to_replace(path)
    write_text(path, json.dumps(to_labelme(result, picture.name), ensure_ascii=False, indent=1) + "\n", durable=False)
    return path


def _encoded(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
