"""Best class of every pixel of a sum over masks, without the classes that can't win where it lies.

In a tile of pixels a class scores at most what it would score were each mask as high everywhere as it is at its highest
there. Where that is less than what some other class reaches at the tile's worst pixel, the class wins nowhere in the tile.
With hundreds of classes a handful is left (`docs/RESULTS.md`, "Label maps"); tiles where more are left are computed whole.

Legend: C classes, Q masks, r x W a strip of pixels, n tiles of P pixels, K kept classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Side of a tile in pixels, and the classes that are computed in every tile.
_SIDE = 8
_KEPT = 32
# Bound and score are summed in different orders, so that a class whose bound is a little lower may win.
_ROUNDING = 1e-4


def best_of_tiles(weights: Tensor, masks: Tensor, of_all: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Best class of each pixel by the scores `weights @ masks`; the first of equals wins.

    Args:
        weights: `[C, Q]`, none negative, of more classes than are kept (32).
        masks: `[Q, r, W]`, none negative.
        of_all: the same of `weights` and values `[Q, N]`, `[N]`, with all classes.

    Returns:
        int64 `[r, W]`.
    """
    tiles = _tiles(masks)
    bounds = tiles.amax(dim=1) @ weights.T
    highest = bounds.topk(_KEPT + 1, dim=1)
    # In their own order, so that the first of equals wins here, too.
    kept = highest.indices[:, :_KEPT].sort(dim=1).values
    score, place = torch.bmm(tiles, weights[kept].transpose(1, 2)).max(dim=2)
    labels = kept.gather(1, place)
    # A pixel that no mask covers has equal scores, of which the first wins, and rules nothing out.
    covered = tiles.any(dim=2)
    labels.masked_fill_(~covered, 0)
    worst = score.masked_fill_(~covered, torch.inf).amin(dim=1)
    # Written so that a NaN leaves its tile open.
    open_tiles = ~(highest.values[:, _KEPT] < worst * (1 - _ROUNDING))
    if open_tiles.any():
        labels[open_tiles] = of_all(weights, tiles[open_tiles].flatten(0, 1).T).view(-1, tiles.shape[1])
    return _untiled(labels, (masks.shape[1], masks.shape[2]))


def _tiles(masks: Tensor) -> Tensor:
    """`[Q, r, W]` -> `[n, P, Q]`; what a tile has beyond the strip is zero."""
    height, width = masks.shape[1:]
    padded = F.pad(masks, (0, -width % _SIDE, 0, -height % _SIDE))
    split = padded.unflatten(2, (-1, _SIDE)).unflatten(1, (-1, _SIDE))
    return split.permute(1, 3, 2, 4, 0).flatten(2, 3).flatten(0, 1)


def _untiled(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """`[n, P]` -> `[r, W]`"""
    height, width = size
    columns = -(-width // _SIDE)
    split = labels.unflatten(1, (_SIDE, _SIDE)).unflatten(0, (-1, columns))
    return split.permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1)[:height, :width]
