"""Boundary IoU against the published procedure, mask by mask with OpenCV's erosion, and closed forms."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from twostage.evaluation.boundary import boundary_counts, boundary_distance, boundary_iou, class_boundaries


def published_boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """What `distance` erosions by a 3 x 3 square take away from a mask that a frame of zeros surrounds."""
    framed = np.pad(mask.astype(np.uint8), 1)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
    return mask & (eroded == 0)


def blobs(rng: np.random.Generator, height: int, width: int, classes: int) -> np.ndarray:
    """Smooth regions of several classes."""
    fields = [cv2.GaussianBlur(rng.random((height, width)), (0, 0), 6) for _ in range(classes)]
    return np.argmax(fields, axis=0)


@pytest.mark.parametrize(("size", "distance"), [((48, 64), 2), ((200, 150), 5), ((20, 20), 1), ((3, 7), 1)])
def test_distance(size: tuple[int, int], distance: int) -> None:
    assert boundary_distance(*size) == distance


@pytest.mark.parametrize("seed", range(3))
def test_equals_published_procedure_per_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label, prediction = blobs(rng, 90, 120, 5), blobs(rng, 90, 120, 6)
    prediction[:, :60] = label[:, :60]
    valid = rng.random(label.shape) < 0.9
    counts = boundary_counts(*(torch.from_numpy(x) for x in (prediction, label, valid)), 300)
    distance = boundary_distance(90, 120)
    assert distance == 3
    for c in range(6):
        g, p = published_boundary(label == c, distance), published_boundary(prediction == c, distance)
        assert counts[:, c].tolist() == [(g & p & valid).sum(), (g & valid).sum(), (p & valid).sum()]
    assert counts[:, 6:].sum() == 0
    iou = boundary_iou(counts)
    for c in range(5):
        g, p = published_boundary(label == c, distance) & valid, published_boundary(prediction == c, distance) & valid
        assert iou[c] == pytest.approx((g & p).sum() / (g | p).sum(), abs=1e-15)
    assert np.isnan(iou[5:]).all()


def test_closed_form_of_a_square() -> None:
    """A 10 x 10 square inside; the boundary of width 2 is 100 - 6 * 6 pixels."""
    labels = torch.zeros(40, 40, dtype=torch.int64)
    labels[10:20, 10:20] = 1
    boundary = class_boundaries(labels, 2)
    assert int((boundary & (labels == 1)).sum()) == 100 - 36
    # The other class: 2 pixels around the square, and the frame of the image.
    assert int((boundary & (labels == 0)).sum()) == 14 * 14 - 100 + 40 * 40 - 36 * 36


def test_more_sensitive_than_iou_to_borders() -> None:
    """A large disc one pixel too small: mask IoU hardly moves, boundary IoU does."""
    y, x = torch.meshgrid(torch.arange(400), torch.arange(400), indexing="ij")
    radius = torch.hypot(y - 200.0, x - 200.0)
    label, prediction = (radius < 150).long(), (radius < 146).long()
    counts = boundary_counts(prediction, label, torch.ones(400, 400, dtype=torch.bool), 2)
    mask_iou = float((label & prediction).sum() / (label | prediction).sum())
    assert mask_iou > 0.94
    assert boundary_iou(counts)[1] < 0.6
