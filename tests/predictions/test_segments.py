"""Panoptic segments, instances and proposals against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twostage.inference import blocks
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.predictions.segments import instances, panoptic_segments, proposals

SIZES = [(50, 61), (32, 40)]


@pytest.fixture
def geometry():
    return Geometry(padded=(64, 64), images=[(50, 61), (64, 64)])


@pytest.fixture
def masks(geometry):
    torch.manual_seed(0)
    return MaskPrediction(
        mask_logits=4 * torch.randn(2, 7, 8, 8), class_logits=3 * torch.randn(2, 7, 6), geometry=geometry
    )


def test_panoptic_merges_stuff_and_keeps_things_apart():
    geometry = Geometry(padded=(8, 8), images=[(8, 8)])
    masks = torch.full((1, 4, 8, 8), -20.0)
    masks[0, 0, :4, :4], masks[0, 1, :4, 4:], masks[0, 2, 4:, :4], masks[0, 3, 4:, 4:] = 20.0, 20.0, 20.0, 20.0
    classes = torch.full((1, 4, 3), -20.0)
    # Two things of class 0, two pieces of stuff class 1.
    classes[0, :2, 0] = classes[0, 2:, 1] = 20.0
    prediction = MaskPrediction(mask_logits=masks, class_logits=classes, geometry=geometry)
    ids, segments = panoptic_segments(prediction, [(8, 8)], things=[0])[0]
    assert [(s["category_id"], s["isthing"]) for s in segments] == [(0, True), (0, True), (1, False)]
    assert [int((ids == s["id"]).sum()) for s in segments] == [16, 16, 32]


def test_panoptic_drops_unsure_and_void_masks():
    geometry = Geometry(padded=(8, 8), images=[(8, 8)])
    classes = torch.tensor([[[0.1, 0.0, 0.0], [0.0, 0.0, 9.0]]])
    prediction = MaskPrediction(mask_logits=torch.full((1, 2, 8, 8), 9.0), class_logits=classes, geometry=geometry)
    ids, segments = panoptic_segments(prediction, [(8, 8)], things=[0])[0]
    assert segments == [] and int(ids.abs().sum()) == 0


def test_panoptic_area_is_what_a_mask_wins():
    """A mask is dropped for the area it loses to others, not for its own pixels below one half."""
    geometry = Geometry(padded=(4, 8), images=[(4, 8)])
    mask_logits = torch.full((1, 2, 4, 8), -1.0)
    mask_logits[0, 0, :, :4] = 5.0
    mask_logits[0, 1, :, 4:6] = 5.0
    class_logits = torch.full((1, 2, 3), -9.0)
    class_logits[0, 0, 0] = class_logits[0, 1, 1] = 9.0
    prediction = MaskPrediction(mask_logits=mask_logits, class_logits=class_logits, geometry=geometry)
    ((ids, segments),) = panoptic_segments(prediction, [(4, 8)], things=[0])
    assert ids[0].tolist() == [1, 1, 1, 1, 2, 2, 0, 0]
    assert [s["category_id"] for s in segments] == [0, 1] and [s["isthing"] for s in segments] == [True, False]
    # The second mask covers half of the first, which wins as much elsewhere, where it is no mask at all.
    mask_logits[0, 1, :, 2:6] = 9.0
    ((ids, segments),) = panoptic_segments(prediction, [(4, 8)], things=[0])
    assert [s["category_id"] for s in segments] == [0, 1] and ids[0].tolist() == [1, 1, 2, 2, 2, 2, 0, 0]
    mask_logits[0, 1, :, 6:] = -0.9
    ((ids, segments),) = panoptic_segments(prediction, [(4, 8)], things=[0])
    assert [s["category_id"] for s in segments] == [1] and ids[0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("strip_floats", [blocks.STRIP_FLOATS, 400])
def test_panoptic_in_strips_equals_all_at_once(monkeypatch, strip_floats):
    """Against masks of the whole picture, with both thresholds in use; strips of one row change nothing."""
    monkeypatch.setattr(blocks, "STRIP_FLOATS", strip_floats)
    torch.manual_seed(4)
    coarse = F.interpolate(6 * torch.randn(1, 12, 4, 5) - 3, size=(24, 30), mode="bilinear")
    geometry = Geometry(padded=(24, 30), images=[(24, 30)])
    prediction = MaskPrediction(mask_logits=coarse, class_logits=3 * torch.randn(1, 12, 5), geometry=geometry)
    found = {}
    for score, overlap in ((0.0, 0.5), (0.7, 0.3), (0.0, 0.0)):
        ((ids, segments),) = panoptic_segments(
            prediction, [(24, 30)], things=[0, 2], score_threshold=score, overlap_threshold=overlap
        )
        scores, classes = prediction.class_logits[0].softmax(-1).max(-1)
        kept = [q for q in range(12) if classes[q] != 4 and scores[q] > score]
        probabilities = coarse[0].sigmoid()
        owner = (scores[kept, None, None] * probabilities[kept]).argmax(0)
        expected: dict[tuple[int, int], torch.Tensor] = {}
        for place, q in enumerate(kept):
            inside = probabilities[q] >= 0.5
            mask = (owner == place) & inside
            if mask.any() and (owner == place).sum() / inside.sum() >= overlap:
                category = int(classes[q])
                key = (category, q if category in (0, 2) else -1)
                expected[key] = expected.get(key, torch.zeros_like(mask)) | mask
        assert [s["category_id"] for s in segments] == [category for category, _ in expected]
        for segment, mask in zip(segments, expected.values(), strict=True):
            assert torch.equal(ids == segment["id"], mask)
        found[score, overlap] = tuple(s["category_id"] for s in segments)
    assert len(set(found.values())) == 3, found


def test_instances_follow_the_formula(masks):
    probability = masks.class_logits[0].softmax(-1)[:, :-1]
    best = sorted(((float(probability[q, c]), q, c) for q in range(7) for c in range(5)), reverse=True)[:12]
    resample = masks.geometry.resampler(0, (8, 8), SIZES[0], torch.device("cpu"))
    wanted = []
    for score, q, c in best:
        if c in (1, 3):
            logits = resample(masks.mask_logits[0, q])
            inside = logits > 0
            wanted.append((score * float(logits.sigmoid()[inside].sum() / (inside.sum() + 1e-6)), c, inside))
    wanted.sort(key=lambda entry: -entry[0])
    found = instances(masks, SIZES, [1, 3], top_k=12)[0]
    assert found.scores.tolist() == pytest.approx([score for score, _, _ in wanted], rel=1e-4)
    assert found.pred_classes.tolist() == [c for _, c, _ in wanted]
    assert torch.equal(found.pred_masks, torch.stack([inside for _, _, inside in wanted]))


def test_instances_without_things_and_in_strips(masks, monkeypatch):
    whole = instances(masks, SIZES)[1]
    assert len(whole) == 35
    monkeypatch.setattr(blocks, "STRIP_FLOATS", 300)
    again = instances(masks, SIZES)[1]
    torch.testing.assert_close(again.scores, whole.scores)
    assert len(instances(masks, SIZES, [])[0]) == 0


def prediction() -> MaskPrediction:
    torch.manual_seed(0)
    return MaskPrediction(
        mask_logits=3 * torch.randn(1, 5, 8, 8),
        class_logits=2 * torch.randn(1, 5, 4),
        geometry=Geometry(padded=(32, 32), images=[(30, 24)]),
    )


def full_logits(p: MaskPrediction) -> torch.Tensor:
    logits = F.interpolate(p.mask_logits, size=(32, 32), mode="bilinear", align_corners=False)[..., :30, :24]
    return F.interpolate(logits, size=(60, 48), mode="bilinear", align_corners=False)[0]


def test_proposals_are_sorted_by_what_void_leaves():
    p = prediction()
    (found,) = proposals(p, [(60, 48)])
    void = p.class_logits[0].softmax(-1)[:, -1]
    order = void.argsort()
    torch.testing.assert_close(found.scores, 1 - void[order])
    assert torch.equal(found.pred_masks, full_logits(p)[order] > 0)
