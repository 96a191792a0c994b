"""Pictures of panoptic segments, and the way to them from Python."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from twostage.api import Segmentation
from twostage.data.segment_maps import read_segment_map
from twostage.errors import UserError
from twostage.predictions.dense import DensePrediction
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.visualization.palette import palette
from twostage.visualization.panoptic_overlay import draw_panoptic, segment_colors, segment_names

SEGMENTS = [
    {"id": 4, "category_id": 1, "isthing": True},
    {"id": 2, "category_id": 0, "isthing": False},
    {"id": 3, "category_id": 1, "isthing": True},
]


def segmentation() -> Segmentation:
    """Two cats on grass."""
    mask_logits = torch.full((1, 3, 8, 16), -9.0)
    mask_logits[0, 0, :4, :6] = mask_logits[0, 1, :4, 10:] = mask_logits[0, 2, 4:] = 9.0
    class_logits = torch.full((1, 3, 3), -9.0)
    class_logits[0, :2, 1] = class_logits[0, 2, 0] = 9.0
    geometry = Geometry(padded=(8, 16), images=[(8, 16)])
    prediction = MaskPrediction(mask_logits=mask_logits, class_logits=class_logits, geometry=geometry)
    labels = prediction.label_maps([(8, 16)])[0].numpy()
    image = np.full((8, 16, 3), 90, np.uint8)
    return Segmentation(labels=labels, names=("grass", "cat"), image=image, prediction=prediction)


def test_things_are_numbered_and_shaded():
    assert segment_names(SEGMENTS, ["grass", "cat"]) == ["cat 1", "grass", "cat 2"]
    colors = segment_colors(SEGMENTS, 2)
    assert (colors[1] == palette(2)[0]).all()
    assert (colors[0] <= palette(2)[1]).all() and (colors[2] >= palette(2)[1]).all() and (colors[0] != colors[2]).any()


def test_no_segments_leave_the_picture():
    image = np.full((400, 400, 3), 90, np.uint8)
    assert (draw_panoptic(image, np.zeros((400, 400), int), [], ["grass"])[:400] == image).all()


def test_from_prediction_to_files(tmp_path):
    result = segmentation().panoptic(["cat"])
    assert [s["isthing"] for s in result.segments] == [True, True, False]
    assert len(np.unique(result.ids)) == 4
    paths = result.save(tmp_path, "a")
    assert [p.name for p in paths] == ["a_panoptic.png", "a_segments.png", "a_segments.json"]
    assert (read_segment_map(tmp_path / "a_segments.png") == result.ids).all()
    assert [s["name"] for s in json.loads((tmp_path / "a_segments.json").read_text())] == ["cat", "cat", "grass"]


def test_what_can_be_wrong():
    result = segmentation()
    with pytest.raises(UserError, match="'cot' is not in the vocabulary"):
        result.panoptic(["cot"])
    with pytest.raises(UserError, match="score_threshold is 7; it must lie between 0 and 1"):
        result.panoptic(["cat"], score_threshold=7)
    geometry = Geometry(padded=(8, 16), images=[(8, 16)])
    dense = DensePrediction(logits=torch.zeros(1, 2, 8, 16), geometry=geometry, num_classes=2)
    other = Segmentation(labels=result.labels, names=result.names, image=result.image, prediction=dense)
    with pytest.raises(UserError, match="predicts masks"):
        other.panoptic(["cat"])
