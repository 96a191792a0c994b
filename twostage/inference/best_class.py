"""Best class of every pixel, with classes innermost in memory: a maximum then runs along memory, in blocks that stay cached.

Measured on one thread of a CPU (`docs/RESULTS.md`, "Label maps"); elsewhere, and for few classes, the plain order of
`twostage.inference.blocks` is used.

Legend: C classes, Q masks, N pixels, h x w a coarse grid, H x W the output.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.inference import blocks
from twostage.inference.class_pruning import best_of_tiles
from twostage.inference.resampling import Resampler

# Pixels whose scores of a block of classes are held at a time: 2 MiB.
_CACHED_PIXELS = 2048
# Rows of an output that are held at a time.
_CACHED_ROWS = 8
# Floats that a processor works on together.
_WIDTH = 16
# Classes from which it pays to lay the scores of a sum over masks side by side.
_MANY_CLASSES = 48
# ... and to look for those that can't win first.
_PRUNED_CLASSES = 200


def best_of_masks(weights: Tensor, masks: Tensor) -> Tensor:
    """Best class of each pixel by the scores `weights @ masks`; the first of equals wins.

    Args:
        weights: `[C, Q]`, contiguous, none negative.
        masks: `[Q, r, W]`, none negative.

    Returns:
        int64 `[r, W]`.
    """
    if weights.device.type == "cpu" and len(weights) >= _PRUNED_CLASSES:
        return best_of_tiles(weights, masks, best_of_products)
    return best_of_products(weights, masks.flatten(1)).view(masks.shape[1:])


def best_of_products(weights: Tensor, values: Tensor) -> Tensor:
    """Best class of each pixel by the scores `weights @ values`; the first of equals wins.

    Args:
        weights: `[C, Q]`, contiguous, none negative.
        values: `[Q, N]`, none negative.

    Returns:
        int64 `[N]`.
    """
    if weights.device.type != "cpu" or len(weights) < _MANY_CLASSES:
        return blocks.running_argmax((c.start, weights[c] @ values) for c in blocks.class_blocks(len(weights)))
    # Products are fastest where the width is a multiple of 16; a class of zeros comes last and so never wins.
    weights = F.pad(weights, (0, 0, 0, -len(weights) % _WIDTH))
    classes = list(blocks.class_blocks(len(weights)))
    labels = torch.empty(values.shape[1], dtype=torch.int64)
    for start in range(0, values.shape[1], _CACHED_PIXELS):
        pixels = values[:, start : start + _CACHED_PIXELS].T
        labels[start : start + _CACHED_PIXELS] = blocks.running_argmax(
            ((c.start, pixels @ weights[c].T) for c in classes), dim=1
        )
    return labels


def best_of_resized(resample: Resampler, logits: Tensor) -> Tensor:
    """Best class of each output pixel of resized logits; the first of equals wins.

    Args:
        resample: from the grid to the output.
        logits: `[C, h, w]`.

    Returns:
        int64 `[H, W]`.
    """
    classes = list(blocks.class_blocks(len(logits)))
    if logits.device.type == "cpu":
        return blocks.running_best((c.start, *_best_of_block(resample, logits[c])) for c in classes)
    labels = torch.empty(resample.output, dtype=torch.int64, device=logits.device)
    for rows in blocks.strips(resample.output, min(blocks.CLASS_BLOCK, len(logits))):
        labels[rows] = blocks.running_argmax((c.start, resample(logits[c], rows.start, rows.stop)) for c in classes)
    return labels


def _best_of_block(resample: Resampler, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Highest score and its class `[H, W]` of a block of classes `[c, h, w]`."""
    value = torch.empty(resample.output, dtype=logits.dtype)
    label = torch.empty(resample.output, dtype=torch.int64)
    wide = resample.columns_last(logits)
    for start in range(0, resample.output[0], _CACHED_ROWS):
        rows = slice(start, start + _CACHED_ROWS)
        value[rows], label[rows] = resample.rows_last(wide, rows.start, rows.stop).max(dim=-1)
    return value, label
