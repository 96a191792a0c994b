"""COCO-Stuff-171: registration, and its labels from the original download.

Images lie in `<root>/coco/{train,val}2017`, labels in `<root>/coco/stuffthingmaps_detectron2/{train,val}2017`, where the
root is `$DETECTRON2_DATASETS`. Pixels hold 0..170, or 255 where nothing is labelled.
"""

from __future__ import annotations

import json
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg
from PIL import Image
from tqdm import tqdm

from twostage.config import datasets_root
from twostage.errors import UserError
from twostage.files import atomic_path

_IGNORE = 255
# Registered name -> split. "test" is val2017 in the names that the field uses.
_SPLITS = {"coco_2017_train_stuff_sem_seg": "train2017", "coco_2017_test_stuff_sem_seg": "val2017"}
_LABELS = "stuffthingmaps_detectron2"


def _classes() -> list[dict]:
    return json.loads(Path(__file__).with_name("coco_stuff.json").read_text(encoding="utf-8"))["classes"]


def register_coco_stuff() -> None:
    """Register both splits, where nobody has yet."""
    names = [entry["name"] for entry in _classes()]
    for dataset, split in _SPLITS.items():
        if dataset in DatasetCatalog.list():
            continue
        root = datasets_root() / "coco"
        images, labels = str(root / split), str(root / _LABELS / split)
        DatasetCatalog.register(dataset, partial(load_sem_seg, labels, images))
        MetadataCatalog.get(dataset).set(
            stuff_classes=names,
            ignore_label=_IGNORE,
            evaluator_type="sem_seg",
            image_root=images,
            sem_seg_root=labels,
            prepare_name="coco_stuff",
        )


def label_table() -> np.ndarray:
    """uint8 `[256]`: original pixel value (COCO id - 1) -> label; unused ids and "unlabelled" become 255."""
    table = np.full(256, _IGNORE, np.uint8)
    for label, entry in enumerate(_classes()):
        table[entry["coco_id"] - 1] = label
    return table


def prepare_coco_stuff(source: Path, *, workers: int = 2) -> dict[str, int]:
    """Write the labels of both splits from the unpacked `stuffthingmaps_trainval2017.zip` in `source`.

    Labels that exist already are kept, so a stopped run goes on where it was; each file appears whole or not at all.

    Returns:
        Number of label files per split.

    Raises:
        UserError: `source` does not hold train2017 or val2017, or a label file can't be read.
    """
    counts = {}
    for split in _SPLITS.values():
        files = sorted((source / split).glob("*.png"))
        if not files:
            raise UserError(
                f"'{source / split}' holds no .png labels; --source is the folder that stuffthingmaps_trainval2017.zip "
                "unpacks to (with train2017/ and val2017/ in it)"
            )
        target = datasets_root() / "coco" / _LABELS / split
        target.mkdir(parents=True, exist_ok=True)
        convert = partial(_convert, target=target, table=label_table())
        # A fresh process per worker, because the parent may already run torch's threads.
        with get_context("spawn").Pool(workers) as pool:
            for _ in tqdm(pool.imap_unordered(convert, files, chunksize=64), total=len(files), desc=split):
                pass
        counts[split] = len(files)
    return counts


def _convert(file: Path, *, target: Path, table: np.ndarray) -> None:
    path = target / file.name
    if path.is_file():
        return
    try:
        pixels = np.asarray(Image.open(file))
    except OSError as error:
        raise UserError(f"label '{file}' can't be read ({error}); unpack the download again") from error
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise UserError(
            f"label '{file}' is not an 8-bit single-channel picture; is it from stuffthingmaps_trainval2017?"
        )
    with atomic_path(path) as temporary:
        Image.fromarray(table[pixels]).save(temporary, format="PNG")
