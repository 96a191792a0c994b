"""Proposals and instances against their definitions."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from twostage.predictions.masks import Frames, MaskPrediction
from twostage.predictions.segments import instances, proposals
from twostage.segmenter import SegmentOutput


def prediction() -> MaskPrediction:
    torch.manual_seed(0)
    return MaskPrediction(
        mask_logits=3 * torch.randn(1, 5, 8, 8),
        class_logits=2 * torch.randn(1, 5, 4),
        frames=Frames(padded=(32, 32), images=[(30, 24)]),
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
    assert torch.equal(found.masks, full_logits(p)[order] > 0)


def test_instances_are_the_best_pairs_of_mask_and_class():
    p = prediction()
    (found,) = instances(p, [(60, 48)], most=4)
    logits, probabilities = full_logits(p), p.class_logits[0].softmax(-1)[:, :3]
    pairs = sorted(((float(probabilities[q, c]), q, c) for q in range(5) for c in range(3)), reverse=True)[:4]
    wanted = []
    for score, q, c in pairs:
        mask = logits[q] > 0
        quality = float((logits[q].sigmoid() * mask).sum() / (mask.sum() + 1e-6))
        wanted.append((score * quality, c, mask))
    wanted.sort(key=lambda w: -w[0])
    torch.testing.assert_close(found.scores, torch.tensor([w[0] for w in wanted]))
    assert found.classes.tolist() == [w[1] for w in wanted]
    assert all(torch.equal(mask, w[2]) for mask, w in zip(found.masks, wanted, strict=True))


def test_only_things_become_instances():
    p = prediction()
    (everything,), (some,) = instances(p, [(60, 48)], most=9), instances(p, [(60, 48)], things=[1], most=9)
    assert set(some.classes.tolist()) == {1}
    assert torch.equal(some.scores, everything.scores[everything.classes == 1])


def test_outputs_hold_what_was_asked_for():
    p = prediction()
    assert SegmentOutput().of(p, [(60, 48)]) == {}
    found = SegmentOutput(panoptic=True, instances=True, proposals=True, things=[0]).of(p, [(60, 48)])
    assert set(found) == {"panoptic_seg", "instances", "proposals"}
    assert found["panoptic_seg"][0][0].shape == (60, 48) and set(found["instances"][0].classes.tolist()) <= {0}
