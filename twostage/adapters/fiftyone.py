"""A segmenter as a FiftyOne model, for `dataset.apply_model(FiftyOneModel(segmenter, words), "predictions")`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from twostage.api import Segmenter
from twostage.errors import UserError
from twostage.results.segmentation import Segmentation

try:
    import fiftyone
except ImportError:  # said by whoever needs it
    fiftyone = None

_BASE: Any = object if fiftyone is None else fiftyone.core.models.Model


def to_fiftyone(result: Segmentation) -> Any:
    """A `fiftyone.Segmentation`: 0 is none of the names, names count from 1 (`mask_targets`)."""
    _require()
    kind = np.uint8 if len(result.names) < 256 else np.uint16
    return fiftyone.Segmentation(mask=(result.labels + 1).astype(kind))


class FiftyOneModel(_BASE):
    """Predicts `fiftyone.Segmentation`s of pictures with fixed words."""

    def __init__(self, segmenter: Segmenter, words: Sequence[str]) -> None:
        """Raises UserError where FiftyOne is not installed."""
        _require()
        super().__init__()
        self.segmenter = segmenter
        self.words = list(words)

    @property
    def media_type(self) -> str:
        """Pictures."""
        return "image"

    @property
    def mask_targets(self) -> dict[int, str]:
        """For `dataset.mask_targets`."""
        return dict(enumerate(self.words, start=1))

    def predict(self, arg: np.ndarray) -> Any:
        """The labels of a picture uint8 RGB `[H, W, 3]`."""
        return to_fiftyone(self.segmenter(arg, self.words))


def _require() -> None:
    if fiftyone is None:
        raise UserError("this needs FiftyOne: pip install fiftyone")
