"""Distinct colours for any number of classes, the same on every machine.

Farthest-point sampling in OKLab (Ottosson, "A perceptual color space for image processing", 2020): each colour is the
one of a fixed grid that is farthest from all before it. Colour i therefore does not depend on how many are asked for,
as long as the grid suffices.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# Not too dark and not too light to see on a photo, and no grey, which reads as "no class".
_LIGHTNESS = (0.5, 0.88)
_LEAST_CHROMA = 0.07
# sRGB steps per channel: the coarse grid gives about 3,100 usable colours, the finer ones are for more classes.
_GRIDS = (16, 32, 64)
# Beyond this many no eye tells neighbours apart: the rest are only different, in a fixed random order.
_WELL_SEPARATED = 1000


def palette(count: int) -> np.ndarray:
    """`[count, 3]` uint8 RGB colours, all different.

    Raises:
        ValueError: more colours than 8-bit RGB can keep apart within the range used (about 200,000).
    """
    for steps in _GRIDS:
        candidates = _candidates(steps)
        if len(candidates) >= count:
            return _farthest_first(steps, count).copy()
    raise ValueError(f"at most {len(candidates)} distinct colours, {count} were asked for")


@lru_cache(maxsize=len(_GRIDS))
def _candidates(steps: int) -> np.ndarray:
    """`[M, 3]` uint8 colours of a grid that are fit for classes."""
    axis = np.linspace(0, 255, steps).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = oklab(grid)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    fit = (lab[:, 0] > _LIGHTNESS[0]) & (lab[:, 0] < _LIGHTNESS[1]) & (chroma > _LEAST_CHROMA)
    return grid[fit]


@lru_cache(maxsize=16)
def _farthest_first(steps: int, count: int) -> np.ndarray:
    colors = _candidates(steps)
    lab = oklab(colors).astype(np.float32)
    distance = np.full(len(colors), np.inf, np.float32)
    # A calm blue to begin with; everything after follows from it.
    chosen = int(np.argmin(np.square(colors.astype(int) - (70, 130, 200)).sum(axis=1)))
    order = []
    for _ in range(min(count, _WELL_SEPARATED)):
        order.append(chosen)
        np.minimum(distance, np.square(lab - lab[chosen]).sum(axis=1), out=distance)
        chosen = int(np.argmax(distance))
    others = np.setdiff1d(np.arange(len(colors)), order)
    mixed = np.random.default_rng(0).permutation(others)[: count - len(order)]
    return colors[np.concatenate([order, mixed]).astype(np.int64)]


def oklab(rgb: np.ndarray) -> np.ndarray:
    """OKLab coordinates `[..., 3]` of uint8 sRGB colours `[..., 3]`."""
    value = rgb.astype(np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
