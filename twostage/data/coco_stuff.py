"""COCO-Stuff-171: its labels from the original download.

Images lie in `<root>/coco/{train,val}2017`, labels in `<root>/coco/stuffthingmaps_detectron2/{train,val}2017`, where the
root is `$DETECTRON2_DATASETS`. Pixels hold 0..170, or 255 where nothing is labelled.
"""

from __future__ import annotations

import json
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from twostage.config import datasets_root
from twostage.errors import UserError
from twostage.files import atomic_path

_IGNORE = 255
# Registered name -> split. "test" is val2017 in the names that the field uses.
_SPLITS = {"coco_2017_train_stuff_sem_seg": "train2017", "coco_2017_test_stuff_sem_seg": "val2017"}
_LABELS = "stuffthingmaps_detectron2"


def label_table() -> np.ndarray:
    """uint8 `[256]`: original pixel value (COCO id - 1) -> label; unused ids and "unlabelled" become 255."""
    table = np.full(256, _IGNORE, np.uint8)
    ids = json.loads((Path(__file__).parent / "catalogue" / "label_ids.json").read_text(encoding="utf-8"))
    used = [coco_id for coco_id in range(1, 183) if coco_id not in ids["coco_stuff_unused"]]
    table[np.array(used) - 1] = np.arange(len(used))
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
