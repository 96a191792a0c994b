"""Auto-annotation for CVAT: a function of cvat-sdk's protocol, given to `cvat_sdk.auto_annotation.annotate_task` or, from the
command line, `cvat-cli task auto-annotate ID --function-module twostage.adapters.cvat -p system=str:san_vitb ...`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from twostage.api import Segmenter, load
from twostage.errors import UserError
from twostage.results.shapes import box


class CvatFunction:
    """Labels each picture with masks, one per connected part of a name.

    Attributes:
        spec: the labels of the function, as cvat-sdk wants them.
    """

    def __init__(self, segmenter: Segmenter, words: Sequence[str]) -> None:
        """Raises UserError where cvat-sdk is not installed."""
        self._sdk = _sdk()
        self._segmenter = segmenter
        self._words = list(words)
        self.spec = self._sdk.DetectionFunctionSpec(
            labels=[self._sdk.label_spec(word, index, type="mask") for index, word in enumerate(self._words)]
        )

    def detect(self, context: Any, image: Any) -> list[Any]:
        """Masks in a PIL picture; `context` is not needed."""
        result = self._segmenter(image, self._words)
        shapes = []
        for index in range(len(self._words)):
            count, parts = cv2.connectedComponents((result.labels == index).astype(np.uint8), connectivity=4)
            shapes += [self._sdk.mask(index, cvat_mask(parts == part)) for part in range(1, count)]
        return shapes


def create(system: str, words: str, weights: str = "") -> CvatFunction:
    """What `cvat-cli` calls, with its `-p` parameters; `words` are separated by semicolons."""
    return CvatFunction(
        load(system, weights=weights or None), [word.strip() for word in words.split(";") if word.strip()]
    )


def cvat_mask(mask: np.ndarray) -> list[int]:
    """CVAT's points of a mask: run lengths inside its box, beginning with those outside, then the box's corners.

    >>> cvat_mask(np.array([[False, False, False], [False, True, True]]))
    [0, 2, 1, 1, 2, 1]
    """
    x, y, width, height = box(mask)
    inside = mask[y : y + height, x : x + width].flatten()
    changes = np.flatnonzero(np.diff(inside, prepend=False))
    runs = np.diff(np.concatenate([[0], changes, [inside.size]]))
    return [*map(int, runs), x, y, x + width - 1, y + height - 1]


def mask_of(points: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """bool `[H, W]` of CVAT's points."""
    *runs, left, top, right, bottom = map(int, points)
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(bottom - top + 1, right - left + 1)
    mask = np.zeros(size, bool)
    mask[top : bottom + 1, left : right + 1] = inside
    return mask


def _sdk() -> Any:
    try:
        import cvat_sdk.auto_annotation as sdk
    except ImportError as error:
        raise UserError("this needs CVAT's SDK: pip install cvat-sdk") from error
    return sdk
