"""Boxes, outlines and run lengths of masks, bool `[H, W]`.

Coordinates are those of pixel corners: the picture spans 0 to W and 0 to H, and the pixel in row y and column x the square
from (x, y) to (x + 1, y + 1).
"""

from __future__ import annotations

from typing import TypedDict

import cv2
import numpy as np
from pycocotools import mask as coco_mask


class Rle(TypedDict):
    """COCO's compressed run lengths, as `pycocotools.mask` reads them; `size` is [H, W]."""

    size: list[int]
    counts: str


# Directions in which an outline runs: the inside lies to its right.
_RIGHT, _DOWN, _LEFT, _UP = range(4)
# A corner of four pixels (north-west 1, north-east 2, south-west 4, south-east 8, where they are inside) as the directions in
# which outlines come to it and go on from it. Pixels that touch at a corner alone are apart.
_TURNS = {
    0b1000: ((_UP, _RIGHT),),
    0b0100: ((_RIGHT, _DOWN),),
    0b0001: ((_DOWN, _LEFT),),
    0b0010: ((_LEFT, _UP),),
    0b1110: ((_RIGHT, _UP),),
    0b1101: ((_DOWN, _RIGHT),),
    0b0111: ((_LEFT, _DOWN),),
    0b1011: ((_UP, _LEFT),),
    0b1001: ((_DOWN, _LEFT), (_UP, _RIGHT)),
    0b0110: ((_LEFT, _UP), (_RIGHT, _DOWN)),
}


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the smallest box around a mask; all 0 for an empty one.

    >>> mask = np.zeros((4, 6), bool)
    >>> mask[1:3, 2:5] = True
    >>> box(mask)
    (2, 1, 3, 2)
    """
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return int(x), int(y), int(width), int(height)


def rle(mask: np.ndarray) -> Rle:
    """A mask as COCO's compressed run lengths."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in mask.shape], "counts": encoded["counts"].decode("ascii")}


def outlines(mask: np.ndarray, *, tolerance: float = 0.0) -> list[np.ndarray]:
    """The rings around a mask, each float64 `[N, 2]` of (x, y), its last point joined to its first.

    Outer rings run clockwise on the screen and rings around holes the other way, so that the sum of x dy - y dx over all
    rings, halved, is the number of pixels.

    Args:
        tolerance: how far, in pixels, a simplified ring may lie from the true one (Douglas and Peucker, 1973); 0 follows the
            pixels. Rings that shrink to less than a triangle are left out.

    >>> mask = np.zeros((4, 6), bool)
    >>> mask[1:3, 2:5] = True
    >>> [ring.tolist() for ring in outlines(mask)]
    [[[2.0, 1.0], [5.0, 1.0], [5.0, 3.0], [2.0, 3.0]]]
    """
    points, following = _corners(mask)
    rings = [points[ring].astype(np.float64) for ring in _cycles(following)]
    if tolerance <= 0:
        return rings
    simple = (cv2.approxPolyDP(ring.astype(np.float32)[:, None], tolerance, closed=True)[:, 0] for ring in rings)
    return [ring.astype(np.float64) for ring in simple if len(ring) >= 3]


def signed_area(ring: np.ndarray) -> float:
    """Pixels inside an outer ring `[N, 2]`, their negative for the ring around a hole."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _corners(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points int64 `[N, 2]` (x, y) where outlines turn, and int64 `[N]` which point comes after each.

    In a row of corners the runs to the right are apart from each other, so that in reading order the i-th that begins one is
    followed by the i-th that ends one; likewise for the other directions.
    """
    inside = np.pad(mask.astype(np.uint8), 1)
    code = inside[:-1, :-1] | inside[:-1, 1:] << 1 | inside[1:, :-1] << 2 | inside[1:, 1:] << 3
    found, coming, going = [], [], []
    for value, turns in _TURNS.items():
        places = np.argwhere(code == value)
        for come, go in turns:
            found.append(places)
            coming.append(np.full(len(places), come))
            going.append(np.full(len(places), go))
    (y, x), arriving, leaving = np.concatenate(found).T, np.concatenate(coming), np.concatenate(going)
    following = np.empty(len(x), np.int64)
    by_row, by_column = np.lexsort((x, y)), np.lexsort((y, x))
    for direction in (_RIGHT, _DOWN, _LEFT, _UP):
        order = by_row if direction in (_RIGHT, _LEFT) else by_column
        following[order[leaving[order] == direction]] = order[arriving[order] == direction]
    return np.stack([x, y], axis=1), following


def _cycles(following: np.ndarray) -> list[list[int]]:
    """The cycles of a permutation, each from its smallest index on."""
    after = following.tolist()
    left = np.ones(len(after), bool).tolist()
    cycles = []
    for start in range(len(after)):
        ring, place = [], start
        while left[place]:
            left[place] = False
            ring.append(place)
            place = after[place]
        if ring:
            cycles.append(ring)
    return cycles
