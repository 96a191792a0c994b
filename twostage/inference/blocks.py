"""Label maps without full score volumes: strips of rows, blocks of classes, a running maximum over the blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

# Floats that a strip may hold at a time (64 MiB).
STRIP_FLOATS = 16 * 1024 * 1024
# Classes whose scores are held at a time while a label map is made.
CLASS_BLOCK = 256


def strips(size: tuple[int, int], floats_per_pixel: int) -> Iterator[slice]:
    """Row slices of an output of `size` (height, width) that each stay within the strip budget."""
    height, width = size
    rows = max(1, STRIP_FLOATS // max(1, width * floats_per_pixel))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def class_blocks(count: int) -> Iterator[slice]:
    """Slices of a class axis of length `count`."""
    for start in range(0, count, CLASS_BLOCK):
        yield slice(start, min(start + CLASS_BLOCK, count))


def running_argmax(blocks: Iterable[tuple[int, Tensor]]) -> Tensor:
    """Index of the best class over blocks `[c, ...]` that come with their first index; the first of equals wins."""
    best: Tensor | None = None
    labels: Tensor | None = None
    for start, block in blocks:
        value, label = block.max(dim=0)
        if best is None or labels is None:
            best, labels = value, label + start
            continue
        better = value > best
        best = torch.where(better, value, best)
        labels = torch.where(better, label + start, labels)
    assert labels is not None, "a prediction has at least one class"
    return labels
