"""Exact colours and places of what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from twostage.visualization.overlay import (
    PAPER,
    class_borders,
    draw_names,
    draw_segmentation,
    enlarged,
    legend,
    overlay,
    present_classes,
    side_by_side,
)

COLORS = np.array([[200, 10, 30], [0, 120, 250], [90, 91, 92]], np.uint8)


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def halves(height: int = 40, width: int = 60) -> np.ndarray:
    """Class 0 left, class 1 right, two rows of ignore at the bottom."""
    labels = np.zeros((height, width), np.int64)
    labels[:, width // 2 :] = 1
    labels[-2:] = 255
    return labels


def test_alpha_one_gives_the_class_colour() -> None:
    image, labels = picture(), halves()
    result = overlay(image, labels, COLORS, alpha=1.0)
    for label in (0, 1):
        assert (result[labels == label] == COLORS[label]).all()
    assert np.array_equal(result[labels == 255], image[labels == 255])


def test_alpha_zero_without_outlines_gives_the_picture() -> None:
    image = picture()
    assert np.array_equal(overlay(image, halves(), COLORS, alpha=0.0, outlines=False), image)


def test_blend() -> None:
    image = np.full((4, 6, 3), 100, np.uint8)
    result = overlay(image, np.zeros((4, 6), np.int64), COLORS, alpha=0.25)
    assert (result == [125, 78, 82]).all()  # 0.75 * 100 + 0.25 * (200, 10, 30), half to even


def test_outlines_are_where_classes_meet() -> None:
    image, labels = picture(), halves()
    border = class_borders(labels)
    expected = np.zeros(labels.shape, bool)
    expected[:-2, 29:31] = True  # left | right
    expected[-3:-1] = True  # labelled | ignored
    assert np.array_equal(border, expected)
    result = overlay(image, labels, COLORS, alpha=0.0)
    drawn = border & (labels != 255)
    assert (result[drawn] == COLORS[labels[drawn]]).all()
    assert np.array_equal(result[~drawn], image[~drawn])


def test_input_is_not_changed() -> None:
    image, labels = picture(), halves()
    copies = image.copy(), labels.copy()
    draw_segmentation(image, labels, ["a", "b", "c"], COLORS)
    assert np.array_equal(image, copies[0])
    assert np.array_equal(labels, copies[1])


def test_enlarged_small_pictures_only() -> None:
    image, labels = enlarged(picture(64, 96), halves(64, 96))
    assert image.shape == (384, 576, 3)
    assert np.array_equal(labels[3::6, 3::6], halves(64, 96))
    large = picture(400, 500)
    assert enlarged(large, halves(400, 500))[0] is large


def test_no_drawing_is_longer_than_the_longest_side() -> None:
    """Scan lines are enlarged by what fits, longer pictures are reduced, both keep at least one pixel."""
    image, labels = enlarged(picture(4, 1200), halves(4, 1200))
    assert image.shape[:2] == labels.shape == (12, 3600)
    for height, width, shown in ((3, 20000, (1, 4096)), (6000, 4500, (4096, 3072)), (1, 1, (384, 384))):
        image, labels = enlarged(np.zeros((height, width, 3), np.uint8), halves(height, width)[:height])
        assert image.shape[:2] == labels.shape == shown and labels.dtype == np.int64
    long = halves(8, 16384)
    _, labels = enlarged(np.zeros((8, 16384, 3), np.uint8), long)
    assert labels.shape == (2, 4096) and np.array_equal(labels[0], long[0, ::4])


def test_names_are_on_their_regions() -> None:
    labels = np.zeros((200, 400), np.int64)
    labels[:, 200:] = 1
    blank = np.full((200, 400, 3), 128, np.uint8)
    changed = (draw_names(blank, labels, ["left", "right"]) != 128).any(axis=-1)
    ys, xs = np.nonzero(changed)
    assert (xs < 200).any() and (xs >= 200).any()
    for side in (xs < 200, xs >= 200):
        centre = np.ptp(xs[side]) / 2 + xs[side].min()
        assert abs(centre % 200 - 100) < 15
        assert abs(ys[side].mean() - 100) < 15
    # Only class 0 has a name in this vocabulary; ignore never has one.
    only = (draw_names(blank, np.where(labels == 1, 255, 0), ["left"]) != 128).any(axis=-1)
    assert only[:, :200].any() and not only[:, 200:].any()


def test_small_regions_and_long_names_are_left_out() -> None:
    blank = np.full((200, 200, 3), 128, np.uint8)
    labels = np.full((200, 200), 255)
    labels[50:60, 50:60] = 0  # 0.25 % of the picture
    assert np.array_equal(draw_names(blank, labels, ["x"]), blank)
    assert np.array_equal(
        draw_names(blank, np.zeros((200, 200), int), ["a name that is far too long to fit in"]), blank
    )


def test_names_do_not_cover_each_other() -> None:
    """Two thin bands, one on top of the other: there is room for the name of the larger one only."""
    blank = np.full((200, 200, 3), 128, np.uint8)
    labels = np.full((200, 200), 255)
    labels[93:100] = 0
    labels[100:105] = 1
    both = draw_names(blank, labels, ["upper", "lower"])
    assert np.array_equal(both, draw_names(blank, np.where(labels == 1, 255, labels), ["upper", "lower"]))
    alone = draw_names(blank, np.where(labels == 0, 255, labels), ["upper", "lower"])
    assert (alone != blank).any() and not np.array_equal(alone, both)


def test_names_are_larger_where_the_picture_is_looked_at_smaller() -> None:
    blank, labels = np.full((400, 400, 3), 128, np.uint8), np.full((400, 400), 255)
    labels[190:205, :] = 0  # thin: the text has the usual size
    heights = []
    for shown_at in (1.0, 0.5):
        rows = (draw_names(blank, labels, ["hill"], shown_at=shown_at) != 128).any(axis=(1, 2)).nonzero()[0]
        heights.append(np.ptp(rows))
    assert 1.7 * heights[0] < heights[1] < 2.3 * heights[0]


def test_present_classes_by_area() -> None:
    labels = np.array([[2, 2, 2, 0], [255, 255, 255, 255]])
    assert present_classes(labels, count=3) == [2, 0]
    assert present_classes(labels, np.array([[0, 0, 0, 1]]), count=3) == [0, 2, 1]
    assert present_classes(labels, np.array([[0, 0, 0, 1]]), count=3, least_share=0.3) == [0, 2]


def test_legend_holds_each_colour_and_breaks_lines() -> None:
    entries = [("grass", COLORS[0]), ("striped blue star", COLORS[1]), ("x" * 300, COLORS[2])]
    wide, narrow = legend(entries, 900), legend(entries, 120)
    assert wide.shape[1] == 900 and narrow.shape[1] == 120
    assert narrow.shape[0] > wide.shape[0]
    for color in COLORS:
        assert (wide == color).all(axis=-1).sum() > 100
        assert (narrow == color).all(axis=-1).sum() > 100
    assert legend([], 50).shape[1] == 50


def test_draw_segmentation_shows_only_present_classes() -> None:
    result = draw_segmentation(picture(100, 120), halves(100, 120), ["left", "right", "absent"], COLORS, alpha=1.0)
    assert result.dtype == np.uint8
    assert result.shape[1] == 480 and result.shape[0] > 400
    foot = result[400:]
    assert (foot == COLORS[0]).all(axis=-1).any()
    assert not (foot == COLORS[2]).all(axis=-1).any()


@pytest.mark.parametrize("count", [1, 3])
def test_side_by_side(count: int) -> None:
    panels = [(f"panel {i}", np.full((50, 70, 3), 40 * i, np.uint8)) for i in range(count)]
    row = side_by_side(panels)
    assert row.shape == (26 + 50 + 10, count * 70 + (count + 1) * 10, 3)
    for i in range(count):
        assert (row[26:76, 10 + 80 * i : 80 + 80 * i] == 40 * i).all()
    assert tuple(row[40, 5]) == PAPER
    assert side_by_side(panels, [("a", COLORS[0])]).shape[0] > row.shape[0]
