"""Figures of semantic segmentation from pixel counts per class.

With T true positives, G label pixels and P predicted pixels of a class (over labelled pixels only):
IoU = T / (G + P - T) and accuracy = T / G, both only for classes that occur in the labels (G > 0).

Two rules for the mean are in use and both call themselves mIoU; compare like with like:

- *gt-present*: the mean over classes with G > 0 (Detectron2 today; our `mIoU`).
- *pred-or-gt*: the same sum divided by the number of classes with G + P > 0, so that a class that is predicted but
  nowhere labelled counts as 0 (Detectron2 0.6 wheels, mmsegmentation; our `mIoU-pred-or-gt`).

All figures are fractions in [0, 1] here; `SemanticFigures.as_percent` gives the report's keys.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twostage.evaluation.confusion import ConfusionMatrix


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b), 0 where both are 0, NaN where either is NaN."""
    return 2 * a * b / (a + b) if a + b else 0.0


@dataclass(frozen=True)
class SemanticFigures:
    """All figures of one dataset as fractions; NaN where a figure has no meaning (no such class in the labels)."""

    miou: float
    miou_pred_or_gt: float
    fwiou: float
    macc: float
    pacc: float
    iou: np.ndarray  # [K], NaN for classes absent from the labels
    label_pixels: np.ndarray  # [K] int64
    seen: float | None = None  # None: the dataset declares no seen / unseen split
    unseen: float | None = None

    @property
    def harmonic(self) -> float | None:
        """Harmonic mean of seen and unseen mIoU, None without a split."""
        return None if self.seen is None or self.unseen is None else harmonic_mean(self.seen, self.unseen)

    def as_percent(self, class_names: Sequence[str]) -> OrderedDict[str, float]:
        """Result keys -> percent, headline figures first; figures without a meaning are left out.

        Keys: mIoU, fwIoU, mACC, pACC, mIoU-pred-or-gt, mIoU-seen, mIoU-unseen, mIoU-harmonic, IoU-<class> ...
        """
        values: list[tuple[str, float | None]] = [
            ("mIoU", self.miou),
            ("fwIoU", self.fwiou),
            ("mACC", self.macc),
            ("pACC", self.pacc),
            ("mIoU-pred-or-gt", self.miou_pred_or_gt),
            ("mIoU-seen", self.seen),
            ("mIoU-unseen", self.unseen),
            ("mIoU-harmonic", self.harmonic),
        ]
        values += [(f"IoU-{name}", iou) for name, iou in zip(class_names, self.iou, strict=True)]
        return OrderedDict((key, 100 * float(value)) for key, value in values if value is not None and value == value)


def semantic_figures(
    matrix: ConfusionMatrix, *, seen: Sequence[int] = (), unseen: Sequence[int] = ()
) -> SemanticFigures:
    """Figures of a confusion matrix; `seen` and `unseen` are class indices, empty where there is no such split."""
    hit = matrix.true_positives.astype(np.float64)
    label = matrix.label_pixels.astype(np.float64)
    predicted = matrix.predicted_pixels.astype(np.float64)
    present = label > 0
    predicted_or_present = present | (predicted > 0)
    iou = np.full(matrix.num_classes, np.nan)
    iou[present] = hit[present] / (label + predicted - hit)[present]
    accuracy = hit[present] / label[present]
    return SemanticFigures(
        miou=_ratio(iou[present].sum(), present.sum()),
        miou_pred_or_gt=_ratio(iou[present].sum(), predicted_or_present.sum()),
        fwiou=_ratio((iou[present] * label[present]).sum(), label.sum()),
        macc=_ratio(accuracy.sum(), present.sum()),
        pacc=_ratio(hit.sum(), label.sum()),
        iou=iou,
        label_pixels=matrix.label_pixels,
        seen=mean_over_present(iou[list(seen)]) if len(seen) else None,
        unseen=mean_over_present(iou[list(unseen)]) if len(unseen) else None,
    )


def image_miou(codes: np.ndarray, counts: np.ndarray, num_classes: int) -> float:
    """gt-present mIoU of one image from its `pair_counts`, at a cost that does not grow with K; NaN without labels."""
    prediction, label = np.divmod(codes, num_classes)
    classes, inverse = np.unique(np.concatenate([prediction, label]), return_inverse=True)
    row, column = inverse[: codes.size], inverse[codes.size :]
    hit, labelled, predicted = (np.zeros(classes.size) for _ in range(3))
    np.add.at(hit, row[row == column], counts[row == column])
    np.add.at(labelled, column, counts)
    np.add.at(predicted, row, counts)
    present = labelled > 0
    return _ratio((hit[present] / (labelled + predicted - hit)[present]).sum(), present.sum())


def mean_over_present(values: np.ndarray) -> float:
    """Mean of the entries that are not NaN; NaN where there is none."""
    present = ~np.isnan(values)
    return _ratio(values[present].sum(), present.sum())


def subset_means(name: str, values: np.ndarray, seen: Sequence[int], unseen: Sequence[int]) -> dict[str, float]:
    """`<name>-seen`, `<name>-unseen` and `<name>-harmonic` of per-class values; empty without such a split."""
    if not len(seen) or not len(unseen):
        return {}
    means = [mean_over_present(values[list(classes)]) for classes in (seen, unseen)]
    return {f"{name}-seen": means[0], f"{name}-unseen": means[1], f"{name}-harmonic": harmonic_mean(*means)}


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator) / float(denominator) if denominator else float("nan")
