"""Labels and best scores without full score volumes: strips of rows, blocks of classes, running maxima over the blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

# Floats that a strip may hold at a time (64 MiB).
STRIP_FLOATS = 16 * 1024 * 1024
# Floats that stay in the last cache of a CPU while they are read again (4 MiB), and the least rows that are worth a step.
_CACHED_FLOATS = 1024 * 1024
_LEAST_ROWS = 8
# Classes whose scores are held at a time while a label map is made.
CLASS_BLOCK = 256


def strips(size: tuple[int, int], floats_per_pixel: int) -> Iterator[slice]:
    """Row slices of an output of `size` (height, width) that each stay within the strip budget."""
    height, width = size
    rows = max(1, STRIP_FLOATS // max(1, width * floats_per_pixel))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def cached_rows(floats_per_row: int, device: torch.device) -> int | None:
    """Rows to work on at a time so that they stay in a CPU's cache, a multiple of 8; None where there is none to mind."""
    if device.type != "cpu":
        return None
    return max(_LEAST_ROWS, _CACHED_FLOATS // max(1, floats_per_row) // _LEAST_ROWS * _LEAST_ROWS)


def class_blocks(count: int) -> Iterator[slice]:
    """Slices of a class axis of length `count`."""
    for start in range(0, count, CLASS_BLOCK):
        yield slice(start, min(start + CLASS_BLOCK, count))


def running_argmax(blocks: Iterable[tuple[int, Tensor]], dim: int = 0) -> Tensor:
    """Index of the best class over blocks with classes along `dim`, which come with their first index; see `running_best`."""
    return running_best((start, *block.max(dim=dim)) for start, block in blocks)


def running_best(maxima: Iterable[tuple[int, Tensor, Tensor]]) -> Tensor:
    """Index of the best class, from each block's first index, best scores and their places in it; the first of equals wins."""
    best: Tensor | None = None
    labels: Tensor | None = None
    for start, value, label in maxima:
        if best is None or labels is None:
            best, labels = value, label + start
            continue
        better = value > best
        best = torch.where(better, value, best)
        labels = torch.where(better, label + start, labels)
    assert labels is not None, "a prediction has at least one class"
    return labels


def running_top(blocks: Iterable[tuple[int, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    """The `count` best classes over such blocks, best first, the first of equals first: scores and indices `[count, ...]`."""
    best: Tensor | None = None
    labels: Tensor | None = None
    for start, block in blocks:
        indices = torch.arange(start, start + len(block), device=block.device)
        indices = indices.view(-1, *[1] * (block.ndim - 1)).expand_as(block)
        if best is not None and labels is not None:
            block, indices = torch.cat([best, block]), torch.cat([labels, indices])
        # topk leaves the order of equals open.
        order = block.argsort(dim=0, descending=True, stable=True)[:count]
        best, labels = block.gather(0, order), indices.gather(0, order)
    assert best is not None and labels is not None, "a prediction has at least one class"
    return best, labels
