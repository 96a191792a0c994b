"""Masks as polygons without holes: a hole is joined to what surrounds it by a cut of no width.

Formats of polygons such as YOLO's know no holes, and their readers draw a polygon by `cv2.fillPoly`, whose corners are pixels
that belong to it. So corners are the pixels at a mask's border, and cuts run over pixels of the mask; what is drawn is the
very mask.
"""

from __future__ import annotations

import cv2
import numpy as np


def simple_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """One ring int `[N, 2]` of pixels (x, y) per part of a bool mask `[H, W]`, holes joined; parts may touch at corners.

    >>> mask = np.ones((5, 5), bool)
    >>> mask[2, 2] = False
    >>> rings = simple_polygons(mask)
    >>> len(rings), bool((covered(rings, mask.shape) == mask).all())
    (1, True)
    """
    # Every pixel of a border, so that a cut finds its end; [next, previous, child, parent] of each.
    borders, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = {at: border[:, 0] for at, border in enumerate(borders) if tree[0, at, 3] < 0}
    # From left to right, so that what a cut to the left meets has been joined already.
    holes = sorted((at for at in range(len(borders)) if tree[0, at, 3] >= 0), key=lambda at: _leftmost(borders[at]))
    for at in holes:
        around = int(tree[0, at, 3])
        rings[around] = _joined(rings[around], borders[at][:, 0])
    return [_without_straight(ring) for ring in rings.values()]


def _leftmost(border: np.ndarray) -> tuple[int, int]:
    x, y = min(map(tuple, border[:, 0].tolist()))
    return x, y


def _joined(ring: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The ring that goes from the nearest of its own pixels left of the hole to the hole, around it, and back."""
    start = int(np.lexsort((hole[:, 1], hole[:, 0]))[0])
    hole = np.roll(hole, -start, axis=0)
    x, y = hole[0]
    place = int(np.where((ring[:, 1] == y) & (ring[:, 0] <= x), ring[:, 0], -1).argmax())
    return np.concatenate([ring[: place + 1], hole, hole[:1], ring[place:]])


def _without_straight(ring: np.ndarray) -> np.ndarray:
    """The ring without the pixels that lie on the way between those before and behind, and those that follow themselves."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)] if len(ring) > 1 else ring
    after = np.roll(ring, -1, axis=0) - ring
    # Cuts go in one step over many pixels.
    ways = np.sign(after) * (np.abs(after).max(axis=1, keepdims=True) > 0)
    return ring[(ways != np.roll(ways, 1, axis=0)).any(axis=1)] if len(ring) > 2 else ring


def covered(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """bool `[H, W]`: pixels in a ring `[N, 2]` of (x, y), its corners among them; fractions are cut off."""
    mask = np.zeros(size, np.uint8)
    for ring in rings:
        cv2.fillPoly(mask, [np.floor(ring).astype(np.int32)], 1)
    return mask.astype(bool)
