"""An exported system beside the torch one, on toybox pictures."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

import numpy as np
import torch

from twostage.api import Segmenter
from twostage.data.toybox.dataset import SEED, plan_scenes, render
from twostage.data.toybox.words import CLASSES
from twostage.errors import UserError
from twostage.vocabulary import Vocabulary

PICTURES = 20
# Numbers of classes, none of which networks are traced with.
CLASS_COUNTS = (3, 12, 54)
# Bounds of what may differ: any score, and the share of pixels with the same label over all pictures.
MOST_SCORE_DIFFERENCE = 1e-3
LEAST_EQUAL_LABELS = 0.999


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far two runs of a system differ, and what they took.

    Attributes:
        pictures, sizes: how many pictures were compared, and how many sizes they had when the network saw them.
        class_counts: of the vocabularies.
        score_difference: the largest of any class at any pixel, a share `strays` of all pixels left out.
        equal_labels: share of all pixels.
        worst_picture: the same of the picture with the least.
        seconds: median of a picture with the last vocabulary, from pixels to label map: torch's, the file's.
    """

    pictures: int
    sizes: int
    class_counts: tuple[int, ...]
    score_difference: float
    equal_labels: float
    worst_picture: float
    seconds: tuple[float, float]
    strays: float = 0.0

    def check(self) -> None:
        """Raises UserError where the runs differ by more than rounding."""
        if self.score_difference <= MOST_SCORE_DIFFERENCE and self.equal_labels >= LEAST_EQUAL_LABELS:
            return
        raise UserError(
            f"the exported system differs from torch's: scores by up to {self.score_difference:.2g} (allowed "
            f"{MOST_SCORE_DIFFERENCE:g}), labels equal in {100 * self.equal_labels:.3f} % of pixels (needed "
            f"{100 * LEAST_EQUAL_LABELS:g} %); the file is not kept"
        )

    def summary(self) -> str:
        """One line."""
        torch_ms, file_ms = (1000 * seconds for seconds in self.seconds)
        where = f" in {100 * (1 - self.strays):g} % of pixels" if self.strays else ""
        return (
            f"{self.pictures} pictures of {self.sizes} sizes, {', '.join(map(str, self.class_counts))} classes: scores "
            f"differ by at most {self.score_difference:.1e}{where}, labels equal in {100 * self.equal_labels:.3f} % "
            f"(worst picture {100 * self.worst_picture:.3f} %); {torch_ms:.1f} ms by torch, {file_ms:.1f} ms by the file"
        )


def toybox_pictures(count: int = PICTURES) -> list[np.ndarray]:
    """Toybox scenes uint8 RGB `[H, W, 3]` of many shapes: every picture is cut differently at the right and the bottom."""
    pictures = []
    for index, (_, scene) in enumerate(render(plan_scenes(SEED, "open", count), SEED, "open")):
        height, width = scene.image.shape[:2]
        pictures.append(scene.image[: height - 5 * (index % 4), : width - 9 * (index % 5)])
    return pictures


def compare(
    reference: Segmenter,
    exported: Segmenter,
    *,
    pictures: Sequence[np.ndarray],
    class_counts: Sequence[int] = CLASS_COUNTS,
    strays: float = 0.0,
) -> Comparison:
    """Run both over `pictures` with each number of toybox's classes; `strays` as in `Comparison`."""
    differences, equal, total, worst = [torch.zeros(1)], 0, 0, 1.0
    seconds: tuple[list[float], list[float]] = ([], [])
    sizes = {tuple(reference.resized(picture).shape) for picture in pictures}
    for count in class_counts:
        vocabulary = Vocabulary(tuple(CLASSES[:count]))
        for segmenter in (reference, exported):
            with torch.inference_mode():
                segmenter.model.embed_vocabulary(vocabulary)
        for picture in pictures:
            found = []
            for segmenter, times in zip((reference, exported), seconds, strict=True):
                start = time.perf_counter()
                found.append(segmenter(picture, vocabulary, others=None))
                if count == class_counts[-1]:
                    times.append(time.perf_counter() - start)
            one, other = found
            with torch.inference_mode():
                difference = (one.scores() - other.scores()).abs()
            # What is no number is as far away as can be.
            differences.append(difference.nan_to_num(nan=math.inf).amax(dim=0).flatten())
            same = float((one.labels == other.labels).mean())
            worst = min(worst, same)
            equal += int((one.labels == other.labels).sum())
            total += one.labels.size
    largest = torch.cat(differences).sort(descending=True).values
    return Comparison(
        pictures=len(pictures),
        sizes=len(sizes),
        class_counts=tuple(class_counts),
        score_difference=float(largest[int(strays * total)]),
        equal_labels=equal / total,
        worst_picture=worst,
        seconds=(float(np.median(seconds[0])), float(np.median(seconds[1]))),
        strays=strays,
    )
