"""Which outputs a model's dicts hold."""

from __future__ import annotations

import pytest
import torch

from twostage.config import load_config
from twostage.errors import UserError
from twostage.predictions.dense import DensePrediction
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.predictions.outputs import OutputSettings, finish


def prediction() -> MaskPrediction:
    torch.manual_seed(0)
    return MaskPrediction(
        mask_logits=3 * torch.randn(1, 5, 8, 8),
        class_logits=2 * torch.randn(1, 5, 4),
        geometry=Geometry(padded=(32, 32), images=[(30, 24)]),
    )


def test_outputs_hold_what_was_asked_for():
    p = prediction()
    (plain,) = finish(p, [(60, 48)], settings=OutputSettings())
    assert set(plain) == {"sem_seg_labels"}
    everything = OutputSettings(semantic="scores", panoptic=True, instances=True, proposals=True, instances_per_image=7)
    (found,) = finish(p, [(60, 48)], things=[0], settings=everything)
    assert set(found) == {"sem_seg", "panoptic_seg", "instances", "proposals"}
    assert torch.equal(found["sem_seg"], p.scores([(60, 48)])[0])
    assert found["panoptic_seg"][0].shape == (60, 48) and set(found["instances"].pred_classes.tolist()) <= {0}
    (every_class,) = finish(p, [(60, 48)], settings=OutputSettings(instances=True, instances_per_image=7))
    assert len(every_class["instances"]) == 7


def test_panoptic_segments_need_things():
    with pytest.raises(UserError, match=r"TEST\.PANOPTIC.*'things'"):
        finish(prediction(), [(60, 48)], settings=OutputSettings(panoptic=True))


def test_dense_predictions_have_no_segments():
    geometry = Geometry(padded=(8, 8), images=[(8, 8)])
    dense = DensePrediction(logits=torch.randn(1, 3, 4, 4), geometry=geometry, num_classes=3)
    (found,) = finish(dense, [(8, 8)], settings=OutputSettings(panoptic=True, instances=True, proposals=True))
    assert set(found) == {"sem_seg_labels"}


def test_settings_follow_from_the_config():
    assert OutputSettings.from_config(load_config()) == OutputSettings()
    opts = ["TEST.SEMANTIC_OUTPUT", "scores", "TEST.PANOPTIC", "True", "TEST.PANOPTIC_SCORE", "0.25"]
    opts += ["TEST.PANOPTIC_OVERLAP", "0.5", "TEST.INSTANCES", "True", "TEST.DETECTIONS_PER_IMAGE", "7"]
    assert OutputSettings.from_config(load_config(opts=[*opts, "TEST.PROPOSALS", "True"])) == OutputSettings(
        semantic="scores", panoptic=True, instances=True, proposals=True,
        score_threshold=0.25, overlap_threshold=0.5, instances_per_image=7,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"TEST\.SEMANTIC_OUTPUT is 'maps'; allowed: 'labels', 'scores'"):
        load_config(opts=["TEST.SEMANTIC_OUTPUT", "maps"])
