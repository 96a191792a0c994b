"""The figure on one image that tools/draw_attention.py prints."""

from __future__ import annotations

import numpy as np
import pytest

from twostage.commands.draw_attention import miou, picture
from twostage.data.views import dataset_info


def test_miou_counts_present_classes_and_leaves_ignored_pixels_out():
    truth = np.array([[0, 0, 1, 255], [0, 0, 1, 255]])
    labels = np.array([[0, 0, 1, 1], [0, 2, 0, 1]])
    # Class 0: 3 of 5, class 1: 1 of 2.
    assert miou(labels, truth, 3) == pytest.approx((3 / 5 + 1 / 2) / 2)


def test_the_picture_has_a_panel_per_map_in_rows_of_four():
    info = dataset_info("toybox_val_open")
    image = np.zeros((64, 64, 3), np.uint8)
    maps = {name: np.zeros((64, 64), np.int64) for name in ("a", "b", "c", "ground truth")}
    five = picture(image, maps, ("sky",), info)
    del maps["c"]
    four = picture(image, maps, ("sky",), info)
    assert five.dtype == np.uint8 and five.shape[1] == four.shape[1] and five.shape[0] > 1.5 * four.shape[0]
