"""Matching and mask losses against closed forms."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Instances

from twostage.proposals.losses import MaskLosses, mask_targets
from twostage.proposals.matching import (
    HungarianMatcher,
    MaskTargets,
    pairwise_bce,
    pairwise_dice,
    pairwise_focal,
    sample_points,
)

MATCHER = HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0, num_points=512)
LOSSES = MaskLosses(
    matcher=MATCHER,
    class_weight=2.0,
    mask_weight=5.0,
    dice_weight=5.0,
    no_object_weight=0.1,
    num_points=512,
    oversample_ratio=3.0,
    importance_sample_ratio=0.75,
)
# Importance sampling seeks the borders, where interpolation blurs; uniform points are nearly all clear of them.
UNIFORM = dataclasses.replace(LOSSES, importance_sample_ratio=0.0, num_points=8192)
# MaskFormer's form: every pixel, focal.
DENSE = dataclasses.replace(
    LOSSES, matcher=dataclasses.replace(MATCHER, num_points=0, focal=True), num_points=0, focal=True
)


def quadrants(size=16):
    masks = torch.zeros(4, size, size, dtype=torch.bool)
    half = size // 2
    for i, (y, x) in enumerate(itertools.product((0, half), repeat=2)):
        masks[i, y : y + half, x : x + half] = True
    return masks


def test_pairwise_costs_equal_a_loop():
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 20), torch.rand(4, 20).round()
    for q, n in itertools.product(range(3), range(4)):
        bce = F.binary_cross_entropy_with_logits(logits[q], targets[n])
        torch.testing.assert_close(pairwise_bce(logits, targets)[q, n], bce)
        p = logits[q].sigmoid()
        dice = 1 - (2 * (p * targets[n]).sum() + 1) / (p.sum() + targets[n].sum() + 1)
        torch.testing.assert_close(pairwise_dice(logits, targets)[q, n], dice)


def focal(logits, targets):
    """Lin et al., equation 5: -alpha_t (1 - p_t)^2 log p_t."""
    p = torch.where(targets > 0, logits.sigmoid(), 1 - logits.sigmoid())
    alpha = torch.where(targets > 0, 0.25, 0.75)
    return (-alpha * (1 - p) ** 2 * p.log()).mean()


def test_pairwise_focal_equals_a_loop():
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 20), torch.rand(4, 20).round()
    for q, n in itertools.product(range(3), range(4)):
        torch.testing.assert_close(pairwise_focal(logits, targets)[q, n], focal(logits[q], targets[n]))


def test_dense_losses_compare_at_the_target_size():
    torch.manual_seed(2)
    logits = torch.randn(1, 5, 4, 4)
    targets = [MaskTargets(classes=torch.tensor([2, 0]), masks=quadrants()[:2])]
    matches = [(torch.tensor([1, 4]), torch.tensor([1, 0]))]
    full = F.interpolate(logits[:, [1, 4]], size=(16, 16), mode="bilinear", align_corners=False)[0].flatten(1)
    wanted = quadrants()[[1, 0]].flatten(1).float()
    p = full.sigmoid()
    dice = 1 - (2 * (p * wanted).sum(1) + 1) / (p.sum(1) + wanted.sum(1) + 1)
    mask_loss, dice_loss = DENSE.mask_losses(logits, targets, matches, 4.0)
    torch.testing.assert_close(mask_loss, (focal(full[0], wanted[0]) + focal(full[1], wanted[1])) / 4)
    torch.testing.assert_close(dice_loss, dice.sum() / 4)


def test_dense_matching_takes_nearest_ground_truth():
    small = quadrants(4)[:1]
    torch.manual_seed(3)
    logits = torch.randn(2, 4, 4)
    ours = DENSE.matcher.cost(torch.zeros(2, 3), logits, MaskTargets(classes=torch.tensor([1]), masks=quadrants()[:1]))
    same = DENSE.matcher.cost(torch.zeros(2, 3), logits, MaskTargets(classes=torch.tensor([1]), masks=small))
    torch.testing.assert_close(ours, same)


def test_dense_losses_without_any_target():
    logits = torch.randn(1, 5, 4, 4, requires_grad=True)
    nothing = MaskTargets(classes=torch.zeros(0, dtype=torch.int64), masks=torch.zeros(0, 16, 16, dtype=torch.bool))
    losses = DENSE([(torch.zeros(1, 5, 3), logits)], [nothing])
    assert losses["loss_mask"] == 0 and losses["loss_dice"] == 0
    assert float(losses["loss_ce"]) == pytest.approx(2.0 * math.log(3))


def test_matching_finds_a_hidden_permutation():
    torch.manual_seed(1)
    masks = quadrants()
    order = torch.tensor([2, 0, 3, 1])
    targets = MaskTargets(classes=order.clone(), masks=masks[order])
    mask_logits = torch.cat([20.0 * (masks.float() - 0.5), torch.full((2, 16, 16), -9.0)])
    class_logits = torch.zeros(6, 5)
    queries, objects = MATCHER(class_logits, mask_logits, targets)
    assert queries.tolist() == [0, 1, 2, 3]
    assert order[objects].tolist() == [0, 1, 2, 3]


def test_points_are_pixels_where_they_hit_centres():
    mask = torch.arange(16.0).view(1, 4, 4)
    points = torch.tensor([[[0.125, 0.125], [0.875, 0.125], [0.125, 0.875]]])
    assert sample_points(mask, points).tolist() == [[0.0, 3.0, 12.0]]


def test_perfect_prediction_costs_almost_nothing_and_void_has_its_weight():
    masks = quadrants()
    targets = [MaskTargets(classes=torch.tensor([0, 1, 2, 3]), masks=masks)]
    mask_logits = torch.cat([60.0 * (masks.float() - 0.5), torch.full((1, 16, 16), -30.0)])[None]
    class_logits = torch.eye(5)[None] * 30
    losses = UNIFORM([(class_logits, mask_logits)], targets)
    assert losses["loss_ce"] < 1e-6 and losses["loss_dice"] < 5 * 0.1
    # The void query says class 0 with certainty: cross-entropy 30, weight 0.1 of a total of 4.1.
    wrong = class_logits.clone()
    wrong[0, 4] = wrong[0, 0]
    torch.testing.assert_close(
        LOSSES.class_loss(wrong, targets, [(torch.arange(4), torch.arange(4))]), torch.tensor(30 * 0.1 / 4.1)
    )


def test_flat_masks_have_the_closed_form():
    masks = torch.ones(2, 64, 64, dtype=torch.bool)
    targets = [MaskTargets(classes=torch.tensor([0, 1]), masks=masks)]
    logit = 0.7
    bce, dice = UNIFORM.mask_losses(
        torch.full((1, 3, 64, 64), logit), targets, [(torch.tensor([0, 2]), torch.tensor([1, 0]))], num_masks=4.0
    )
    # Grid sampling pads with zero outside the map, so only points within half a pixel of the border differ.
    p = 1 / (1 + math.exp(-logit))
    assert abs(bce.item() - 2 / 4 * -math.log(p)) < 0.01
    assert abs(dice.item() - 2 / 4 * (1 - 2 * p / (1 + p))) < 0.01


def test_auxiliary_outputs_get_suffixes_and_their_own_losses():
    torch.manual_seed(0)
    targets = [MaskTargets(classes=torch.tensor([1]), masks=quadrants()[:1])]
    outputs = [(torch.randn(1, 5, 4), torch.randn(1, 5, 4, 4)) for _ in range(2)]
    losses = LOSSES(outputs, targets)
    assert sorted(losses) == ["loss_ce", "loss_ce_0", "loss_dice", "loss_dice_0", "loss_mask", "loss_mask_0"]
    assert losses["loss_ce"] != losses["loss_ce_0"]


def test_image_without_objects_keeps_gradients():
    masks = torch.zeros(0, 16, 16, dtype=torch.bool)
    targets = [MaskTargets(classes=torch.zeros(0, dtype=torch.int64), masks=masks)]
    mask_logits = torch.randn(1, 5, 4, 4, requires_grad=True)
    class_logits = torch.randn(1, 5, 4, requires_grad=True)
    sum(LOSSES([(class_logits, mask_logits)], targets).values()).backward()
    assert mask_logits.grad is not None and float(mask_logits.grad.abs().sum()) == 0
    assert float(class_logits.grad.abs().sum()) > 0


def test_targets_are_padded_right_and_bottom():
    instances = Instances((6, 5))
    instances.gt_classes = torch.tensor([3])
    instances.gt_masks = torch.ones(1, 6, 5, dtype=torch.bool)
    (target,) = mask_targets([{"instances": instances}], (8, 8), torch.device("cpu"))
    assert target.masks.shape == (1, 8, 8) and int(target.masks.sum()) == 30
    assert not target.masks[:, 6:].any() and not target.masks[:, :, 5:].any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_logits_still_match(bad):
    targets = MaskTargets(classes=torch.tensor([0]), masks=quadrants()[:1])
    queries, objects = MATCHER(torch.full((3, 2), bad), torch.zeros(3, 4, 4), targets)
    assert len(queries) == len(objects) == 1
