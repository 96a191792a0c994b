"""Windows of a picture put together before anything is named: Trident's splice-then-segment (Shi et al., ICCV 2025).

Legend: B windows, W channels, h x w a window's grid.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from twostage.inference.resampling import Size
from twostage.inference.sliding import TileGrid


def aligned_size(size: Size, multiple: int, least: int) -> Size:
    """Size that a picture is stretched to so that windows lie on whole patches; one that is aligned stays, however small.

    >>> aligned_size((340, 680), 16, 336), aligned_size((160, 320), 16, 336)
    ((352, 688), (160, 320))
    """
    if all(side % multiple == 0 for side in size):
        return size
    longest = max(size)
    scale = -(-longest // multiple) * multiple / longest
    height, width = (max(-(-int(side * scale) // multiple) * multiple, least) for side in size)
    return height, width


def corners(tiles: TileGrid, patch: int) -> list[Size]:
    """Upper left corner of each window in patches."""
    return [(top // patch, left // patch) for top in tiles.tops for left in tiles.lefts]


def splice(windows: Tensor, at: Sequence[Size], size: Size, *, grid: Size) -> Tensor:
    """Map `[W, height, width]` of a whole picture from its windows' `[B, W, h, w]`, averaged where they overlap.

    Args:
        at: upper left corner of each window in CLIP's patches.
        size: the picture's in CLIP's patches.
        grid: a window's in CLIP's patches; where windows are finer by a whole factor, so is the result.
    """
    factor = windows.shape[-1] // grid[1]
    height, width = size[0] * factor, size[1] * factor
    total = windows.new_zeros((windows.shape[1], height, width))
    count = windows.new_zeros((height, width))
    for window, (top, left) in zip(windows, at, strict=True):
        rows = slice(top * factor, top * factor + window.shape[1])
        columns = slice(left * factor, left * factor + window.shape[2])
        total[:, rows, columns] += window
        count[rows, columns] += 1
    return total / count
