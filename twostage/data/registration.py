"""Registers the datasets in Detectron2's catalogues; imported by `twostage.data`.

| name               | pictures                          | vocabulary                                              |
|--------------------|-----------------------------------|---------------------------------------------------------|
| toybox_train       | 1,200, seen classes only          | 36 seen classes                                         |
| toybox_val_seen    | 50 of val, seen classes only      | 36 seen classes                                         |
| toybox_val_open    | all 150 of val                    | all 54 classes; which are seen and unseen in metadata   |
| toybox_val_large   | as toybox_val_open                | the 54 and several hundred names that no picture shows  |

The files are written on first use (`twostage.data.toybox.dataset`). COCO-Stuff has its own module.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from twostage.config import datasets_root
from twostage.data.coco_stuff import register_coco_stuff
from twostage.data.toybox import words
from twostage.data.toybox.dataset import ensure_toybox
from twostage.visualization.palette import palette

IGNORE_LABEL = 255
# Dataset name -> (folder, beginning of the files' names).
_TOYBOX_SPLITS = {
    "toybox_train": ("train", ""),
    "toybox_val_seen": ("val", "seen"),
    "toybox_val_open": ("val", ""),
    "toybox_val_large": ("val", ""),
}


def toybox_records(name: str) -> list[dict[str, Any]]:
    """Records of a toybox split (file_name, sem_seg_file_name, height, width), sorted; writes toybox if need be."""
    folder, prefix = _TOYBOX_SPLITS[name]
    root = ensure_toybox(Path(datasets_root()))
    records = []
    for labels in sorted((root / "annotations" / folder).glob(f"{prefix}*.png")):
        # PIL reads only the header.
        with Image.open(labels) as image:
            width, height = image.size
        records.append(
            {
                "file_name": str(root / "images" / folder / f"{labels.stem}.jpg"),
                "sem_seg_file_name": str(labels),
                "height": height,
                "width": width,
            }
        )
    return records


def _toybox_vocabulary(name: str) -> Sequence[str]:
    if name in ("toybox_train", "toybox_val_seen"):
        return words.SEEN_CLASSES
    return words.large_vocabulary() if name == "toybox_val_large" else words.CLASSES


def register_toybox() -> None:
    """Register the toybox splits that are not registered yet. Touches no file."""
    for name, (folder, _) in _TOYBOX_SPLITS.items():
        if name in DatasetCatalog.list():
            continue
        DatasetCatalog.register(name, partial(toybox_records, name))
        names = list(_toybox_vocabulary(name))
        seen, known = len(words.SEEN_CLASSES), len(words.CLASSES)
        root = Path(datasets_root()) / "toybox"
        split = {}
        if len(names) > seen:
            split = {"seen_classes": list(range(seen)), "unseen_classes": list(range(seen, known))}
        MetadataCatalog.get(name).set(
            stuff_classes=names,
            stuff_colors=palette(len(names)).tolist(),
            ignore_label=IGNORE_LABEL,
            evaluator_type="sem_seg",
            image_root=str(root / "images" / folder),
            sem_seg_root=str(root / "annotations" / folder),
            **split,
        )


register_toybox()
register_coco_stuff()
