"""One score per segment, at a cost that does not grow with the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from twostage.results.segmentation import Segmentation

# Longest side of the grid on which a segment's score is averaged.
_SCORE_GRID = 128


def mean_scores(result: Segmentation, labels: Sequence[int]) -> dict[int, float]:
    """The mean score of each label over its pixels, on a grid that keeps memory apart from the picture's size."""
    height, width = result.labels.shape
    step = max(height, width) / _SCORE_GRID
    size = (height, width) if step <= 1 else (max(1, round(height / step)), max(1, round(width / step)))
    rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(int)
    coarse = result.labels[rows[:, None], columns]
    with torch.inference_mode():
        scores = result.prediction.scores([size])[0].cpu().numpy()
    means = {}
    for label in labels:
        inside = coarse == label
        if not inside.any():
            # Too small for the grid: the cell of its first pixel.
            y, x = np.unravel_index(int((result.labels == label).argmax()), result.labels.shape)
            inside[int(y * size[0] / height), int(x * size[1] / width)] = True
        means[label] = round(float(scores[label][inside].mean()), 6)
    return means
