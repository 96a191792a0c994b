"""Confusion counts of label maps: exact integers, cost linear in pixels, memory in pairs that occur.

K classes have K * K possible (prediction, label) pairs, 3.2 GB of int64 at K = 20,000, but an image of N pixels can
hold at most N of them and usually holds a few hundred. So only pairs that occur are kept, as sorted codes
`prediction * K + label` with their counts.

Legend: N pixels, K classes, P pairs that occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

# A table of (classes seen) x (classes seen) is counted directly up to this many cells per pixel, sorted beyond it.
_CELLS_PER_PIXEL = 4
# Pairs that wait before they are merged into the sorted ones; amortises the merge, bounds the memory.
_PENDING_PAIRS = 1 << 20


def pair_counts(prediction: torch.Tensor, label: torch.Tensor, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Count the (prediction, label) pairs of two equally long int64 vectors on their device.

    Args:
        prediction: `[N]`, values 0 .. num_classes - 1.
        label: `[N]`, same range (ignored pixels are already taken out).
        num_classes: K.

    Returns:
        `codes` `[P]` int64, ascending, each `prediction * K + label`, and `counts` `[P]` int64, all positive.
    """
    if prediction.numel() == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    rows, row_of = _compact(prediction, num_classes)
    columns, column_of = _compact(label, num_classes)
    if rows.numel() * columns.numel() <= max(_CELLS_PER_PIXEL * prediction.numel(), 1 << 16):
        cells = row_of * columns.numel() + column_of
        table = torch.bincount(cells, minlength=rows.numel() * columns.numel())
        found = table.nonzero()[:, 0]
        codes = rows[found // columns.numel()] * num_classes + columns[found % columns.numel()]
        counts = table[found]
    else:
        codes, counts = torch.unique(prediction * num_classes + label, return_counts=True)
    return codes.cpu().numpy(), counts.cpu().numpy()


def _compact(values: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The classes that occur, ascending, and for each pixel the position of its class among them."""
    present = torch.bincount(values, minlength=num_classes) > 0
    position = torch.cumsum(present, dim=0) - 1
    return present.nonzero()[:, 0], position[values]


class ConfusionMatrix:
    """Exact K x K pixel counts, rows = prediction, columns = label, stored as the pairs that occur.

    Example:
        >>> matrix = ConfusionMatrix(3)
        >>> matrix.add(*pair_counts(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]), 3))
        >>> matrix.true_positives.tolist(), matrix.label_pixels.tolist(), matrix.predicted_pixels.tolist()
        ([1, 1, 0], [1, 1, 1], [1, 2, 0])
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._codes = np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._num_pending = 0

    def add(self, codes: np.ndarray, counts: np.ndarray) -> None:
        """Add pairs as `pair_counts` returns them (codes may repeat ones that were added before)."""
        self._pending.append((codes, counts))
        self._num_pending += codes.size
        if self._num_pending > max(_PENDING_PAIRS, self._codes.size):
            self._merge_pending()

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """`codes` `[P]` ascending and `counts` `[P]` of everything added so far."""
        self._merge_pending()
        return self._codes, self._counts

    @classmethod
    def merged(cls, num_classes: int, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> ConfusionMatrix:
        """The sum of several matrices given by their `pairs()`; exact, whatever the order."""
        matrix = cls(num_classes)
        for codes, counts in parts:
            matrix.add(codes, counts)
        return matrix

    @property
    def true_positives(self) -> np.ndarray:
        """`[K]` int64, pixels of each class that were predicted as that class."""
        codes, counts = self.pairs()
        prediction, label = np.divmod(codes, self.num_classes)
        return self._per_class(label[prediction == label], counts[prediction == label])

    @property
    def label_pixels(self) -> np.ndarray:
        """`[K]` int64, pixels of each class in the labels."""
        codes, counts = self.pairs()
        return self._per_class(codes % self.num_classes, counts)

    @property
    def predicted_pixels(self) -> np.ndarray:
        """`[K]` int64, pixels predicted as each class (where there is a label)."""
        codes, counts = self.pairs()
        return self._per_class(codes // self.num_classes, counts)

    def confusions(self, per_class: int = 5) -> list[dict[str, Any]]:
        """What the pixels of each class are taken for: per label the `per_class` largest wrong predictions.

        Returns:
            `{"label": g, "prediction": p, "pixels": n, "share": n / label pixels of g}`, ascending g, descending n.
        """
        codes, counts = self.pairs()
        prediction, label = np.divmod(codes, self.num_classes)
        label_pixels = self.label_pixels
        wrong = np.flatnonzero(prediction != label)
        order = wrong[np.lexsort((prediction[wrong], -counts[wrong], label[wrong]))]
        _, first, size = np.unique(label[order], return_index=True, return_counts=True)
        rank = np.arange(order.size) - np.repeat(first, size)
        return [
            {"label": g, "prediction": p, "pixels": n, "share": n / int(label_pixels[g])}
            for g, p, n in zip(*(x[order[rank < per_class]].tolist() for x in (label, prediction, counts)), strict=True)
        ]

    def dense(self) -> np.ndarray:
        """`[K, K]` int64, rows = prediction. For small K (tests, tables): K = 20,000 would need 3.2 GB."""
        codes, counts = self.pairs()
        matrix = np.zeros(self.num_classes * self.num_classes, np.int64)
        matrix[codes] = counts
        return matrix.reshape(self.num_classes, self.num_classes)

    def _per_class(self, classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
        # np.bincount with weights would sum in float64; np.add.at stays in exact integers.
        total = np.zeros(self.num_classes, np.int64)
        np.add.at(total, classes, counts)
        return total

    def _merge_pending(self) -> None:
        if not self._pending:
            return
        codes = np.concatenate([self._codes, *(c for c, _ in self._pending)])
        counts = np.concatenate([self._counts, *(n for _, n in self._pending)])
        self._codes, inverse = np.unique(codes, return_inverse=True)
        self._counts = np.zeros(self._codes.size, np.int64)
        np.add.at(self._counts, inverse, counts)
        self._pending, self._num_pending = [], 0
