"""The output of the image-segmentation pipeline of Hugging Face's transformers.

to_pipeline(result)  # [{"label": ..., "mask": ..., "score": ...}, ...]
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from PIL import Image

from twostage.results.mean_scores import mean_scores
from twostage.results.segmentation import Segmentation


class Entry(TypedDict):
    """One name in a picture: `mask` is a picture of 8 bits, 255 inside."""

    score: float
    label: str
    mask: Image.Image


def to_pipeline(result: Segmentation) -> list[Entry]:
    """An entry per name in the picture, largest first; scores are means over the mask, on the system's scale."""
    indices = [result.names.index(name) for name in result.areas()]
    scores = mean_scores(result, indices)
    return [
        {
            "score": scores[index],
            "label": result.names[index],
            "mask": Image.fromarray(result.mask(result.names[index]).astype(np.uint8) * np.uint8(255)),
        }
        for index in indices
    ]
