"""Masks as polygons without holes: a hole is joined to what surrounds it by a cut of no width.

Formats of polygons such as YOLO's know no holes. Cuts run along a row of pixel corners, so that no pixel's centre lies on one
and the polygon covers the very pixels of the mask.
"""

from __future__ import annotations

import numpy as np
from skimage.draw import polygon as pixels_inside

from twostage.results.shapes import outlines, signed_area


def simple_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """One ring `[N, 2]` of (x, y) per part of a bool mask `[H, W]`, holes joined; parts that touch at a corner are apart.

    >>> mask = np.ones((5, 5), bool)
    >>> mask[2, 2] = False
    >>> rings = simple_polygons(mask)
    >>> len(rings), len(rings[0]), bool((covered(rings, mask.shape) == mask).all())
    (1, 11, True)
    """
    rings = outlines(mask)
    # From left to right, so that what a cut to the left meets has been joined already.
    holes = sorted((ring for ring in rings if signed_area(ring) < 0), key=lambda ring: ring.min(axis=0).tolist())
    joined = [ring for ring in rings if signed_area(ring) > 0]
    for hole in holes:
        start = int(np.lexsort((hole[:, 1], hole[:, 0]))[0])
        hole = np.roll(hole, -start, axis=0)
        which, place, x = _met_on_the_left(joined, hole[0])
        foot = np.array([[x, hole[0, 1]]])
        ring = joined[which]
        joined[which] = np.concatenate([ring[: place + 1], foot, hole, hole[:1], foot, ring[place + 1 :]])
    return joined


def _met_on_the_left(rings: list[np.ndarray], point: np.ndarray) -> tuple[int, int, float]:
    """Which ring's upright edge a ray from `point` to the left meets first: ring, index of the edge's start, x."""
    best = (-1, -1, -np.inf)
    for number, ring in enumerate(rings):
        after = np.roll(ring, -1, axis=0)
        low, high = np.minimum(ring[:, 1], after[:, 1]), np.maximum(ring[:, 1], after[:, 1])
        met = (
            (ring[:, 0] == after[:, 0])
            & (ring[:, 0] < point[0])
            & (low <= point[1])
            & (point[1] <= high)
            & (low < high)
        )
        if met.any():
            place = int(np.where(met, ring[:, 0], -np.inf).argmax())
            if ring[place, 0] > best[2]:
                best = (number, place, float(ring[place, 0]))
    return best


def covered(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """bool `[H, W]`: pixels whose centres lie in a ring `[N, 2]` of (x, y)."""
    mask = np.zeros(size, bool)
    for ring in rings:
        mask[pixels_inside(ring[:, 1] - 0.5, ring[:, 0] - 0.5, size)] = True
    return mask
