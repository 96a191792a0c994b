"""Masks of known shapes: their boxes, outlines and run lengths."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from twostage.results.shapes import box, outlines, rle, signed_area


def rectangle(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("corners", [(2, 3, 7, 11), (0, 0, 20, 30), (0, 0, 1, 1), (19, 29, 20, 30)])
def test_a_rectangle(corners: tuple[int, int, int, int]) -> None:
    top, left, bottom, right = corners
    mask = rectangle(*corners)
    assert box(mask) == (left, top, right - left, bottom - top)
    (ring,) = outlines(mask)
    assert ring.tolist() == [[left, top], [right, top], [right, bottom], [left, bottom]]
    assert np.array_equal(coco_mask.decode(rle(mask)).astype(bool), mask)


def test_nothing() -> None:
    empty = np.zeros((5, 6), bool)
    assert box(empty) == (0, 0, 0, 0) and outlines(empty) == []
    assert not coco_mask.decode(rle(empty)).any()


def test_a_hole_runs_the_other_way() -> None:
    mask = rectangle(2, 3, 12, 18) & ~rectangle(5, 6, 8, 10)
    outer, hole = sorted(outlines(mask), key=signed_area, reverse=True)
    assert signed_area(outer) == 10 * 15 and signed_area(hole) == -3 * 4
    assert {tuple(point) for point in hole.tolist()} == {(6, 5), (10, 5), (10, 8), (6, 8)}


@pytest.mark.parametrize("flip", [False, True])
def test_pixels_that_touch_at_a_corner_are_apart(flip: bool) -> None:
    mask = np.array([[1, 0], [0, 1]], bool)
    rings = outlines(mask[:, ::-1] if flip else mask)
    assert [len(ring) for ring in rings] == [4, 4] and [signed_area(ring) for ring in rings] == [1, 1]


def test_corners_that_touch_belong_to_one_hole_each() -> None:
    """Two holes that touch at a corner are one, as the outside is connected over corners."""
    mask = np.ones((4, 4), bool)
    mask[1, 1] = mask[2, 2] = False
    assert sorted(map(signed_area, outlines(mask))) == [-2, 16]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_outlines_hold_all_that_is_inside_and_nothing_else(share: float) -> None:
    """Areas add up, and filling the rings at twice the size by the even-odd rule gives the mask again."""
    mask = np.random.default_rng(3).random((23, 31)) < share
    rings = outlines(mask)
    assert sum(map(signed_area, rings)) == mask.sum()
    # A pixel's middle lies at an odd place of the doubled grid, which no outline passes through.
    crossings = np.zeros(mask.shape, int)
    for ring in rings:
        (x, y), (nx, ny) = ring.T, np.roll(ring, -1, axis=0).T
        for px, top, bottom in zip(x, np.minimum(y, ny), np.maximum(y, ny), strict=True):
            crossings[int(top) : int(bottom), int(px) :] += 1
        assert ((x == nx) ^ (y == ny)).all()
    assert np.array_equal(crossings % 2 == 1, mask)


def test_a_simplified_circle_has_few_points_and_nearly_its_area() -> None:
    mask = np.zeros((101, 101), np.uint8)
    cv2.circle(mask, (50, 50), 40, 1, -1)
    (exact,), (simple,) = outlines(mask.astype(bool)), outlines(mask.astype(bool), tolerance=1.5)
    assert signed_area(exact) == mask.sum() and len(exact) > 100
    assert len(simple) < 40 and abs(signed_area(simple) / mask.sum() - 1) < 0.03
    assert outlines(rectangle(3, 4, 4, 5), tolerance=5) == []
