"""The registered splits of toybox.

| name               | pictures                          | vocabulary                                              |
|--------------------|-----------------------------------|---------------------------------------------------------|
| toybox_train       | 1,200, seen classes only          | 36 seen classes                                         |
| toybox_train_open  | 1,200 others, all classes         | all 54 classes; for systems that hide the unseen labels |
| toybox_val_seen    | 50 of val, seen classes only      | 36 seen classes                                         |
| toybox_val_open    | all 150 of val                    | all 54 classes; seen and unseen ones are reported apart |
| toybox_val_large   | as toybox_val_open                | the 54 and several hundred names that no picture shows  |

The files are written on first use (`twostage.data.toybox.dataset`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from twostage.data.catalogue.info import DatasetInfo
from twostage.data.catalogue.panoptic_labels import PanopticLabels
from twostage.data.toybox import words
from twostage.data.toybox.dataset import ensure_panoptic, ensure_toybox, ensure_toybox_open
from twostage.machine import datasets_root

# What writes each folder.
_FOLDERS = {"toybox": ensure_toybox, "toybox_open": ensure_toybox_open}


def toybox_infos() -> list[DatasetInfo]:
    """The facts of all five."""
    return [
        _info("toybox_train", "train", words.SEEN_CLASSES),
        # Zero-shot training as published lets unseen classes be seen, but not their labels.
        _info("toybox_train_open", "train", words.CLASSES, folder="toybox_open"),
        _info("toybox_val_seen", "val", words.SEEN_CLASSES, prefix="seen"),
        _info("toybox_val_open", "val", words.CLASSES),
        _info("toybox_val_large", "val", words.large_vocabulary()),
    ]


def _info(name: str, split: str, classes: Sequence[str], prefix: str = "", folder: str = "toybox") -> DatasetInfo:
    seen, known = len(words.SEEN_CLASSES), len(words.CLASSES)
    open_split = len(classes) > seen
    return DatasetInfo(
        name=name,
        benchmark="toybox",
        split=split,
        title="toybox, a procedural world that comes with twostage",
        class_names=tuple(classes),
        prompts=tuple(classes),
        images=(f"{folder}/images/{split}",),
        labels=(f"{folder}/annotations/{split}",),
        things=tuple(i for i, word in enumerate(classes[:known]) if word not in words.STUFF),
        seen=tuple(range(seen)) if open_split else (),
        unseen=tuple(range(seen, known)) if open_split else (),
        zero_shot=open_split,
        labelled=min(len(classes), known),
        label_bits=8,
        prefix=prefix,
        ensure=partial(ensure, folder),
        panoptic=PanopticLabels(
            folders=(f"toybox/panoptic_{split}",),
            files=(f"toybox/panoptic_{split}.json",),
            category_ids=tuple(range(len(classes))),
            ensure=partial(ensure_segments, split),
        )
        if folder == "toybox"
        else None,
    )


def ensure(folder: str) -> None:
    """Write the `folder` of `_FOLDERS` under the datasets root where it is missing."""
    _FOLDERS[folder](datasets_root())


def ensure_segments(split: str) -> None:
    """Write the panoptic labels of "train" or "val" where toybox is older than they are."""
    ensure_panoptic(datasets_root(), split)
