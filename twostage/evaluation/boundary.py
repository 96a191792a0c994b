"""Boundary IoU (Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021, section 3).

With X_d the pixels of a mask X within distance d of its contour, Boundary IoU of a prediction P and a label G is
|G_d & P_d| / |G_d | P_d|. As published, d is 2 % of the image's diagonal (rounded, at least 1), X_d is what an erosion by
the (2d + 1) x (2d + 1) square takes away, and the edge of the image is a contour. For semantic segmentation the mask of a
class is all of its pixels; intersections and unions are summed over the dataset before the ratio is taken, as for mIoU,
and the mean is over the classes in the labels.

The erosion of all classes at once: a pixel is taken away exactly where its square holds another class or leaves the image,
so one minimum and one maximum filter over the label map serve any number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DILATION_RATIO = 0.02


def boundary_distance(height: int, width: int, ratio: float = DILATION_RATIO) -> int:
    """d in pixels: `ratio` of the diagonal, rounded, at least 1."""
    return max(1, round(ratio * math.hypot(height, width)))


def class_boundaries(labels: Tensor, distance: int) -> Tensor:
    """bool `[H, W]`: pixels within `distance` of the contour of their own class, of an integer map `[H, W]` (>= 0)."""
    padded = F.pad(labels, 4 * [distance], value=-1)
    highest, lowest = padded, padded
    for axis in (0, 1):
        highest = _sliding(torch.maximum, highest, 2 * distance + 1, axis)
        lowest = _sliding(torch.minimum, lowest, 2 * distance + 1, axis)
    return highest != lowest


def _sliding(extreme: Callable[[Tensor, Tensor], Tensor], values: Tensor, size: int, axis: int) -> Tensor:
    """`extreme` of each `size` neighbours along `axis`, shorter by size - 1; windows double, so log2(size) steps do."""
    covered = 1
    while covered < size:
        step = min(covered, size - covered)
        rest = values.shape[axis] - step
        values = extreme(values.narrow(axis, 0, rest), values.narrow(axis, step, rest))
        covered += step
    return values


def boundary_counts(prediction: Tensor, label: Tensor, valid: Tensor, num_classes: int) -> np.ndarray:
    """int64 `[3, K]`: per class the pixels of G_d & P_d, of G_d and of P_d, over the `valid` pixels.

    Args:
        prediction: `[H, W]`, classes.
        label: `[H, W]`, classes where `valid`; other values (ignored) end a class's region like another class does.
        valid: bool `[H, W]`.
    """
    distance = boundary_distance(*label.shape)
    in_label = class_boundaries(label, distance) & valid
    in_prediction = class_boundaries(prediction, distance) & valid
    both = in_label & in_prediction & (prediction == label)
    rows = (label[both], label[in_label], prediction[in_prediction])
    return torch.stack([torch.bincount(row, minlength=num_classes) for row in rows]).cpu().numpy()


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """`[K]` fractions from the sum of `boundary_counts` over all images; NaN for classes that are in no label."""
    both, label, prediction = counts.astype(np.float64)
    iou = np.full(counts.shape[1], np.nan)
    present = label > 0
    iou[present] = both[present] / (label + prediction - both)[present]
    return iou
