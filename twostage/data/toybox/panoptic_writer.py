"""Panoptic labels of toybox: `toybox/panoptic_{train,val}/*.png` and `panoptic_{train,val}.json`, in COCO's format.

Every thing is a segment, each stuff is one; void (0) is where the label maps ignore. Category ids are indices of CLASSES.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from twostage.data.segment_maps import category_of, describe_segments, write_panoptic_json, write_segment_map
from twostage.data.toybox.scenes import Scene
from twostage.data.toybox.words import CLASSES, STUFF

# Raised whenever the same scenes give other segments.
PANOPTIC_VERSION = 1


def has_panoptic(folder: Path, target: str, seed: int) -> bool:
    """Whether the toybox in `folder` has finished panoptic labels of "train" or "val" of this version."""
    try:
        content = json.loads((folder / f"panoptic_{target}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return content.get("info") == _stamp(seed)


def _stamp(seed: int) -> dict[str, int]:
    return {"version": PANOPTIC_VERSION, "seed": seed}


class PanopticWriter:
    """Writes the panoptic labels of the scenes of one folder ("train", "val") below `folder`; the json comes last."""

    def __init__(self, folder: Path, target: str, seed: int) -> None:
        self._pictures = folder / f"panoptic_{target}"
        self._json = folder / f"panoptic_{target}.json"
        self._seed = seed
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, name: str, scene: Scene) -> None:
        """Write the segments of a scene whose files are called `name`."""
        height, width = scene.segments.shape
        image_id = len(self._images) + 1
        write_segment_map(self._pictures / f"{name}.png", scene.segments)
        self._images.append({"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width})
        segments = describe_segments(scene.segments, category_of)
        self._annotations.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments})

    def finish(self) -> None:
        """Write the json: from now on the labels are complete."""
        categories = [
            {"id": index, "name": name, "isthing": int(name not in STUFF)} for index, name in enumerate(CLASSES)
        ]
        write_panoptic_json(
            self._json,
            images=self._images,
            annotations=self._annotations,
            categories=categories,
            info=_stamp(self._seed),
        )

    def move_to(self, folder: Path) -> None:
        """Move all into another toybox on the same disk, the json last, in place of what an unfinished run left."""
        target = folder / self._pictures.name
        shutil.rmtree(target, ignore_errors=True)
        self._pictures.replace(target)
        self._json.replace(folder / self._json.name)
