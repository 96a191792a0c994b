"""PASCAL-Context: 459 ids per pixel in .mat files, or masks of the same ids in trainval_merged.json."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from pycocotools import mask as masks

from twostage.data.preparation.jobs import Convert, Job, write_labels
from twostage.errors import UserError

NUM_IDS = 459


def context_459_table() -> np.ndarray:
    """uint16 `[460]`: id -> id - 1; 0 (which val never holds) is ignored."""
    return (np.arange(NUM_IDS + 1) - 1).astype(np.uint16)


def context_59_table(ids: list[int]) -> np.ndarray:
    """uint8 `[460]`: the n-th of the ascending `ids` -> n, all others ignored."""
    table = np.full(NUM_IDS + 1, 255, np.uint8)
    table[sorted(ids)] = np.arange(len(ids))
    return table


def context_60_table(ids: list[int]) -> np.ndarray:
    """uint8 `[460]`: the n-th of the ascending `ids` -> n + 1, all others are background (0)."""
    return (context_59_table(ids) + 1).astype(np.uint8)  # 255 wraps to 0


def mat_jobs(folder: Path, names: Collection[str], target: Path) -> list[Job]:
    """A job for every name, from `<folder>/<name>.mat`."""
    return [Job(folder / f"{name}.mat", target / f"{name}.png") for name in sorted(names)]


def convert_mat(table: np.ndarray) -> Convert:
    """The conversion of a .mat file's `LabelMap` by `table`."""
    return partial(_convert_mat, table=table)


def _convert_mat(job: Job, *, table: np.ndarray) -> bool:
    try:
        ids = scipy.io.loadmat(job.source)["LabelMap"]
    except FileNotFoundError as error:
        raise UserError(f"label '{job.source}' does not exist; unpack trainval.tar.gz again") from error
    # scipy reports damaged files by many types.
    except Exception as error:
        raise UserError(
            f"label '{job.source}' can't be read as .mat with a LabelMap ({type(error).__name__})"
        ) from error
    _write(job, np.asarray(ids), table)
    return True


def _write(job: Job, ids: np.ndarray, table: np.ndarray) -> None:
    if ids.ndim != 2 or ids.min(initial=0) < 0 or ids.max(initial=0) >= len(table):
        raise UserError(
            f"label '{job.source}' holds ids outside 0..{len(table) - 1} for {job.target.stem}; unpack it again"
        )
    write_labels(job.target, table[ids])


def merged_jobs(path: Path, phase: str, target: Path) -> list[Job]:
    """A job for every picture of `phase` ("train" or "val") in trainval_merged.json, with its annotations.

    Raises:
        UserError: the file can't be read or is another one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pictures = [image for image in content["images"] if image["phase"] == phase]
        by_picture: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        wanted = {_id(image) for image in pictures}
        for annotation in content["annos_segmentation"]:
            if annotation["image_id"] in wanted:
                kept = {"category_id": annotation["category_id"], "segmentation": annotation["segmentation"]}
                by_picture[annotation["image_id"]].append(kept)
        jobs = [
            Job(
                path,
                target / f"{Path(image['file_name']).stem}.png",
                {"height": image.get("height"), "width": image.get("width"), "masks": by_picture[_id(image)]},
            )
            for image in pictures
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"'{path}' can't be read as PASCAL-Context's trainval_merged.json ({type(error).__name__}: {error}); "
            "download it again"
        ) from error
    return sorted(jobs, key=lambda job: job.target)


def _id(image: dict[str, Any]) -> Any:
    return image["image_id"] if "image_id" in image else image["id"]


def convert_merged(table: np.ndarray) -> Convert:
    """The conversion of a picture's masks: painted one after another, later ones on top, then looked up in `table`."""
    return partial(_convert_merged, table=table)


def _convert_merged(job: Job, *, table: np.ndarray) -> bool:
    content = job.content
    try:
        layers = [
            (entry["category_id"], _decode(entry["segmentation"], content["height"], content["width"]))
            for entry in content["masks"]
        ]
        shape = layers[0][1].shape if layers else (content["height"], content["width"])
        canvas = np.zeros(shape, np.int64)
        for category, mask in layers:
            # Ids outside the list are nothing, but cover what is below them.
            canvas[mask] = category if 0 < category < len(table) else 0
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"'{job.source}': the masks of '{job.target.stem}' can't be decoded ({error})") from error
    _write(job, canvas, table)
    return True


def _decode(segmentation: Any, height: int | None, width: int | None) -> np.ndarray:
    """bool `[H, W]` from COCO's encodings: compressed or plain run lengths, or polygons."""
    if isinstance(segmentation, list):
        encoded = masks.merge(masks.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        encoded = masks.frPyObjects(segmentation, *segmentation["size"])
    else:
        encoded = segmentation
    return masks.decode(encoded).astype(bool)
