"""Figures against hand-made numbers, an independent slow computation, and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from twostage.evaluation.confusion import ConfusionMatrix, pair_counts
from twostage.evaluation.metrics import harmonic_mean, image_miou, semantic_figures


def matrix_of(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> ConfusionMatrix:
    return ConfusionMatrix.merged(
        num_classes, [pair_counts(torch.as_tensor(prediction), torch.as_tensor(label), num_classes)]
    )


def test_closed_form_both_rules() -> None:
    """Labels: 4 x class 0, 4 x class 1; one pixel of each goes astray, one to class 2 which is nowhere labelled."""
    label = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    prediction = np.array([0, 0, 0, 1, 1, 1, 1, 2])
    figures = semantic_figures(matrix_of(prediction, label, 4), seen=[0, 3], unseen=[1, 2])
    iou0, iou1 = 3 / 4, 3 / 5
    assert figures.iou[:2].tolist() == pytest.approx([iou0, iou1], abs=1e-15)
    assert np.isnan(figures.iou[2:]).all()
    assert figures.miou == pytest.approx((iou0 + iou1) / 2)
    assert figures.miou_pred_or_gt == pytest.approx((iou0 + iou1) / 3)  # class 3 occurs nowhere, class 2 counts as 0
    assert figures.fwiou == pytest.approx((iou0 + iou1) / 2)
    assert figures.macc == pytest.approx(3 / 4)
    assert figures.pacc == pytest.approx(6 / 8)
    assert figures.seen == pytest.approx(iou0)
    assert figures.unseen == pytest.approx(iou1)
    assert figures.harmonic == pytest.approx(2 * iou0 * iou1 / (iou0 + iou1))


def test_keys_and_order() -> None:
    figures = semantic_figures(matrix_of(np.array([0, 1]), np.array([0, 0]), 3), seen=[0], unseen=[1, 2])
    percent = figures.as_percent(["a", "b", "c"])
    # No class of the unseen ones is labelled: neither their mean nor the harmonic one has a meaning.
    assert list(percent) == ["mIoU", "fwIoU", "mACC", "pACC", "mIoU-pred-or-gt", "mIoU-seen", "IoU-a"]
    assert percent["IoU-a"] == 50.0
    assert percent["mIoU-pred-or-gt"] == 25.0
    assert all(type(value) is float for value in percent.values())


def test_no_split_no_split_keys() -> None:
    percent = semantic_figures(matrix_of(np.array([0]), np.array([0]), 1)).as_percent(["a"])
    assert list(percent) == ["mIoU", "fwIoU", "mACC", "pACC", "mIoU-pred-or-gt", "IoU-a"]


def test_nothing_labelled() -> None:
    figures = semantic_figures(ConfusionMatrix(3), seen=[0], unseen=[1])
    assert math.isnan(figures.miou)
    assert figures.as_percent(["a", "b", "c"]) == {}


@pytest.mark.parametrize(
    ("a", "b", "expected"), [(0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.6, 0.3, 0.4), (0.3, 0.6, 0.4)]
)
def test_harmonic_mean(a: float, b: float, expected: float) -> None:
    assert harmonic_mean(a, b) == pytest.approx(expected)


def test_harmonic_mean_of_unknown_is_unknown() -> None:
    assert math.isnan(harmonic_mean(float("nan"), 0.5))


def slow_figures(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> dict[str, float]:
    """Set operations per class on the pixels, without a confusion matrix."""
    ious, weights, accuracies, predicted_only = {}, {}, {}, 0
    for c in range(num_classes):
        in_label, in_prediction = label == c, prediction == c
        if in_label.any():
            ious[c] = (in_label & in_prediction).sum() / (in_label | in_prediction).sum()
            accuracies[c] = in_prediction[in_label].mean()
            weights[c] = in_label.mean()
        else:
            predicted_only += int(in_prediction.any())
    total = math.fsum(ious.values())
    return {
        "miou": total / len(ious),
        "miou_pred_or_gt": total / (len(ious) + predicted_only),
        "fwiou": math.fsum(ious[c] * weights[c] for c in ious),
        "macc": math.fsum(accuracies.values()) / len(accuracies),
        "pacc": float((prediction == label).mean()),
    }


@pytest.mark.parametrize("seed", range(4))
def test_equals_slow_computation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 25, 3000) % rng.integers(5, 25)
    prediction = np.where(rng.random(3000) < 0.6, label, rng.integers(0, 30, 3000))
    matrix = matrix_of(prediction, label, 30)
    figures = semantic_figures(matrix)
    expected = slow_figures(prediction, label, 30)
    assert expected["miou"] > expected["miou_pred_or_gt"]  # the case tells the rules apart
    for name, value in expected.items():
        assert getattr(figures, name) == pytest.approx(value, abs=1e-12), name
    assert image_miou(*matrix.pairs(), 30) == pytest.approx(expected["miou"], abs=1e-12)


def test_permuting_classes_permutes_ious() -> None:
    rng = np.random.default_rng(5)
    label, prediction = rng.integers(0, 8, 500), rng.integers(0, 10, 500)
    order = rng.permutation(10)
    before = semantic_figures(matrix_of(prediction, label, 10), seen=[0, 1, 2], unseen=[5, 6])
    after = semantic_figures(
        matrix_of(order[prediction], order[label], 10), seen=order[[0, 1, 2]].tolist(), unseen=order[[5, 6]].tolist()
    )
    assert np.array_equal(after.iou[order], before.iou, equal_nan=True)
    for name in ("miou", "miou_pred_or_gt", "fwiou", "macc", "pacc", "seen", "unseen", "harmonic"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=1e-14), name


def test_image_miou_without_labels_is_nan() -> None:
    assert math.isnan(image_miou(np.empty(0, np.int64), np.empty(0, np.int64), 3))
