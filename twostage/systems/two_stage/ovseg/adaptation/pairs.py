"""Mask-category pairs on disk: masked crops and what they show (OVSeg, section 3.2).

A folder of PNG crops and `pairs.csv`, tab-separated with the columns `filepath` and `title`, as in the authors' files:
paths are relative to the csv or absolute. Everything outside the mask is painted in one exact colour, from which training
tells the mask.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from twostage.api import Segmenter
from twostage.data.images import read_rgb
from twostage.data.labels import read_label_map
from twostage.data.nouns import noun_phrases
from twostage.errors import UserError
from twostage.files import atomic_path, write_text
from twostage.vocabulary import Vocabulary

# ImageNet's mean colour, which the authors' pairs have; their inference paints CLIP's mean, which differs by one or two.
BLANK = (124, 116, 103)
FILE_NAME = "pairs.csv"


@dataclasses.dataclass(frozen=True)
class Pair:
    """A crop `image` uint8 `[h, w, 3]` with a blank background, and its `title`."""

    image: np.ndarray
    title: str


def masked_crop(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The tight box of bool `mask` `[H, W]` out of uint8 `image` `[H, W, 3]`, blank outside the mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.where(mask[box][..., None], image[box], np.array(BLANK, np.uint8))


def pairs_from_labels(
    records: Iterable[dict[str, Any]], names: Sequence[str], *, ignore_label: int, min_pixels: int
) -> Iterator[Pair]:
    """One pair per class and picture of a labelled set.

    Args:
        records: with `file_name` and `sem_seg_file_name`.
        names: classes.
        min_pixels: smaller masks are left out.
    """
    for record in records:
        image = read_rgb(record["file_name"])
        labels = read_label_map(record["sem_seg_file_name"], largest=max(len(names) - 1, ignore_label))
        for label in np.unique(labels):
            mask = labels == label
            if label != ignore_label and mask.sum() >= min_pixels:
                yield Pair(masked_crop(image, mask), names[int(label)])


def pairs_from_captions(records: Iterable[dict[str, Any]], segmenter: Segmenter, *, min_pixels: int) -> Iterator[Pair]:
    """For each thing that a caption names, the proposal that CLIP finds most like it.

    Args:
        records: with `file_name` and `caption`.
        segmenter: an OVSeg (or zsseg) with a trained generator; its CLIP does the pairing.
        min_pixels: smaller masks are left out.
    """
    model: Any = segmenter.model
    for record in records:
        nouns = noun_phrases(record["caption"])
        if not nouns:
            continue
        photo = segmenter.encode(record["file_name"])
        regions, size = photo.features.regions, photo.pixels.shape[:2]
        if regions is None:
            raise UserError("pairs from captions need MODEL.OVSEG.ENSEMBLE True, since CLIP pairs nouns with proposals")
        with torch.inference_mode():
            similarity = regions.embeddings[0] @ model.text(Vocabulary(tuple(nouns))).T
            best = similarity.masked_fill(~regions.valid[0][:, None], -2).argmax(dim=0)
            masks = _masks_at(photo.features, best, size) > model.mask_threshold
        for noun, mask in zip(nouns, masks.cpu().numpy(), strict=True):
            if mask.sum() >= min_pixels:
                yield Pair(masked_crop(photo.pixels, mask), noun)


def _masks_at(encoded: Any, which: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Probabilities `[N, height, width]` of the chosen proposals at the picture's own size."""
    logits = encoded.outputs[0][0][0, which]
    grid = (logits.shape[-2], logits.shape[-1])
    return encoded.geometry.resampler(0, grid, size, logits.device)(logits).sigmoid()


def write_pairs(pairs: Iterable[Pair], folder: Path, *, total: int | None = None) -> int:
    """Write crops and `pairs.csv` into `folder`; returns how many.

    Raises:
        UserError: there are none.
    """
    (folder / "crops").mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["filepath", "title"])
    count = 0
    for pair in tqdm(pairs, "mask-category pairs", total, leave=False):
        name = f"crops/{count:07d}.png"
        with atomic_path(folder / name, durable=False) as temporary:
            Image.fromarray(pair.image).save(temporary, format="PNG")
        writer.writerow([name, pair.title])
        count += 1
    if not count:
        raise UserError("no mask-category pairs were found; check the dataset, or lower --min-pixels")
    write_text(folder / FILE_NAME, text.getvalue())
    return count


def read_pairs(path: Path) -> list[tuple[Path, str]]:
    """(file, title) of every line of a `pairs.csv`, or of a folder that holds one.

    Raises:
        UserError: it is missing, empty or of another kind.
    """
    path = path / FILE_NAME if path.is_dir() else path
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"pairs '{path}' can't be read ({error}); make them by `train_mask_prompt.py pairs`") from error
    if not rows or not {"filepath", "title"} <= set(rows[0]):
        raise UserError(f"pairs '{path}' must be tab-separated with the columns filepath and title, and not empty")
    return [(path.parent / row["filepath"], row["title"]) for row in rows]
