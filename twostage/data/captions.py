"""Datasets of image-caption pairs: their file formats and their registration.

A record is one pair: `file_name` and `caption`; a picture with five captions makes five records. Under
`$DETECTRON2_DATASETS`:

| name                          | pictures and captions                                                                 |
|-------------------------------|---------------------------------------------------------------------------------------|
| `toybox_captions`             | writes itself on first use                                                            |
| `toybox_scene_captions`       | the same; scenes of several things, all of them named                                 |
| `toybox_train_captions`       | of the pictures of `toybox_train`; what each was planned to show                      |
| `coco_2017_train_captions`    | `coco/train2017/`, `coco/annotations/captions_train2017.json`                         |
| `coco_2014_karpathy_captions` | `coco/{train,val}2014/`, `coco/dataset_coco.json` (Karpathy's file; "train" part)     |
| `cc3m_captions`               | `cc3m/captions.jsonl`, pictures where it says                                         |

`captions.jsonl`, for these and for sets of your own (`register_caption_set`), has one json object per line:
`{"image": "path below the folder", "captions": ["a cat on a sofa", ...]}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from twostage.data.toybox.caption_set import ensure_toybox_captions, ensure_toybox_scene_captions
from twostage.data.toybox.scene_sentences import toybox_train_captions
from twostage.errors import UserError
from twostage.machine import datasets_root

Record = dict[str, Any]
# The `kind` of such datasets.
CAPTIONS = "captions"


def read_caption_lines(folder: Path) -> list[Record]:
    """Pairs of `folder/captions.jsonl`.

    Raises:
        UserError: the file is missing, or a line is not as the module's text says.
    """
    path = folder / "captions.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"captions '{path}' can't be read ({error}); one json object per line is needed there, like "
            '{"image": "a.jpg", "captions": ["a cat"]}'
        ) from error
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, captions = entry["image"], entry["captions"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"captions '{path}', line {number}: no json object with 'image' and 'captions'") from error
        if not isinstance(captions, list):
            raise UserError(f"captions '{path}', line {number}: 'captions' must be a list of sentences")
        records += [{"file_name": str(folder / name), "caption": str(caption)} for caption in captions]
    return records


def read_karpathy(folder: Path, parts: tuple[str, ...] = ("train",)) -> list[Record]:
    """Pairs of COCO 2014 in the parts ("train", "restval", "val", "test") of Karpathy's `folder/dataset_coco.json`.

    Raises:
        UserError: the file is missing or of another kind.
    """
    path = folder / "dataset_coco.json"
    try:
        images = json.loads(path.read_text(encoding="utf-8"))["images"]
        return [
            {"file_name": str(folder / image["filepath"] / image["filename"]), "caption": sentence["raw"].strip()}
            for image in images
            if image["split"] in parts
            for sentence in image["sentences"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"captions '{path}' can't be read ({type(error).__name__}: {error}); it is dataset_coco.json of Karpathy's "
            "caption splits, beside train2014/ and val2014/"
        ) from error


def read_coco_captions(folder: Path) -> list[Record]:
    """Pairs of `folder/annotations/captions_train2017.json`.

    Raises:
        UserError: the file is missing or of another kind.
    """
    path = folder / "annotations" / "captions_train2017.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = {image["id"]: str(folder / "train2017" / image["file_name"]) for image in content["images"]}
        return [{"file_name": files[e["image_id"]], "caption": e["caption"].strip()} for e in content["annotations"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"captions '{path}' can't be read ({type(error).__name__}: {error}); it is part of COCO 2017's annotations"
        ) from error


def register_caption_set(name: str, load: Callable[[], list[Record]]) -> None:
    """Register image-caption pairs under `name`, where nobody has yet.

    For example `register_caption_set("my_captions", lambda: read_caption_lines(Path("photos")))`.
    """
    if name in DatasetCatalog.list():
        return
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(evaluator_type=CAPTIONS)


def _below_root(folder: str, read: Callable[[Path], list[Record]]) -> list[Record]:
    # The root is asked for when the set is read, because DETECTRON2_DATASETS may change after registration.
    return read(datasets_root() / folder)


def _toybox(ensure: Callable[[Path], Path]) -> list[Record]:
    return read_caption_lines(ensure(datasets_root()))


def builtin_caption_sets() -> Iterator[tuple[str, Callable[[], list[Record]]]]:
    """The caption sets that we know: name, and what gives their records."""
    yield "toybox_captions", partial(_toybox, ensure_toybox_captions)
    yield "toybox_scene_captions", partial(_toybox, ensure_toybox_scene_captions)
    yield "toybox_train_captions", lambda: toybox_train_captions(datasets_root())
    yield "coco_2017_train_captions", partial(_below_root, "coco", read_coco_captions)
    yield "coco_2014_karpathy_captions", partial(_below_root, "coco", read_karpathy)
    yield "cc3m_captions", partial(_below_root, "cc3m", read_caption_lines)
