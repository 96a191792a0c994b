"""What an evaluator counts per image, and how counts become figures.

Each measure turns one image into a few small arrays (`of_image`), adds such arrays up (`add`), and makes figures of the sum
(`figures`). The arrays are all that is kept of an image: they are written to the journal, from which a killed evaluation
goes on, and integers (or lists of single floats) only, so that sums are exact whatever the order or number of processes.

Legend: K classes, P (prediction, label) pairs that occur.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from twostage.evaluation.boundary import boundary_counts, boundary_iou
from twostage.evaluation.confusion import ConfusionMatrix, pair_counts
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.metrics import mean_over_present, semantic_figures, subset_means

Counts = dict[str, np.ndarray]


@dataclass(frozen=True)
class EvaluatedImage:
    """One image's prediction beside its label, on the prediction's device.

    Attributes:
        record: Detectron2's input dict.
        output: the model's output dict.
        prediction: int64 `[H, W]`, classes of the dataset.
        label: int64 `[H, W]`.
        valid: bool `[H, W]`, where the label is a class.
    """

    record: Mapping[str, Any]
    output: Mapping[str, Any]
    prediction: Tensor
    label: Tensor
    valid: Tensor


class Measure(abc.ABC):
    """Base of the measures.

    Attributes:
        name: of its arrays in the journal.
        task: Detectron2's name of the group that its figures belong to.
    """

    name: str
    task = "sem_seg"

    def __init__(self, dataset: EvaluatedDataset) -> None:
        self.dataset = dataset

    @abc.abstractmethod
    def of_image(self, image: EvaluatedImage) -> Counts:
        """Arrays of one image; nothing is added yet."""

    @abc.abstractmethod
    def add(self, counts: Counts) -> None:
        """Add the arrays of an image, or the `total` of another process."""

    @abc.abstractmethod
    def total(self) -> Counts:
        """Arrays that `add` to another instance what was added to this one."""

    @abc.abstractmethod
    def figures(self) -> dict[str, float]:
        """Result keys -> percent, without figures that have no meaning here."""

    def record(self) -> dict[str, Any]:
        """Further entries of the results file."""
        return {}


class PairMeasure(Measure):
    """The confusion matrix of the prediction, and all figures of it (`twostage.evaluation.metrics`)."""

    name = "pairs"

    def __init__(self, dataset: EvaluatedDataset) -> None:
        super().__init__(dataset)
        self.matrix = ConfusionMatrix(dataset.num_classes)

    def of_image(self, image: EvaluatedImage) -> Counts:
        return count_pairs(image.prediction, image, self.dataset.num_classes)

    def add(self, counts: Counts) -> None:
        self.matrix.add(counts["codes"], counts["counts"])

    def total(self) -> Counts:
        codes, counts = self.matrix.pairs()
        return {"codes": codes, "counts": counts}

    def figures(self) -> dict[str, float]:
        figures = semantic_figures(self.matrix, seen=self.dataset.seen, unseen=self.dataset.unseen)
        return figures.as_percent(self.dataset.class_names)

    def record(self) -> dict[str, Any]:
        figures = semantic_figures(self.matrix)
        return {
            "iou_per_class": 100 * figures.iou,
            "label_pixels": figures.label_pixels,
            "predicted_pixels": self.matrix.predicted_pixels,
            "confusions": self.matrix.confusions(),
        }


class BoundaryMeasure(Measure):
    """Boundary IoU (`twostage.evaluation.boundary`)."""

    name = "boundary"

    def __init__(self, dataset: EvaluatedDataset) -> None:
        super().__init__(dataset)
        self._counts = np.zeros((3, dataset.num_classes), np.int64)

    def of_image(self, image: EvaluatedImage) -> Counts:
        return _sparse(boundary_counts(image.prediction, image.label, image.valid, self.dataset.num_classes))

    def add(self, counts: Counts) -> None:
        # The codes of one `Counts` differ, so plain indexing adds each.
        self._counts.reshape(-1)[counts["codes"]] += counts["counts"]

    def total(self) -> Counts:
        return _sparse(self._counts)

    def figures(self) -> dict[str, float]:
        iou = boundary_iou(self._counts)
        values = {"boundary-mIoU": mean_over_present(iou)}
        values |= subset_means("boundary-mIoU", iou, self.dataset.seen, self.dataset.unseen)
        return {key: 100 * value for key, value in values.items() if value == value}

    def record(self) -> dict[str, Any]:
        return {"boundary_iou_per_class": 100 * boundary_iou(self._counts)}


def count_pairs(prediction: Tensor, image: EvaluatedImage, num_classes: int) -> Counts:
    """`codes`, `counts` `[P]` of a label map `[H, W]` against the image's label."""
    codes, counts = pair_counts(prediction[image.valid], image.label[image.valid], num_classes)
    return {"codes": codes, "counts": counts}


def add_all(measures: Sequence[Measure], counts: Mapping[str, Counts]) -> None:
    """Add an image's arrays, by measure name, to their measures."""
    for measure in measures:
        measure.add(counts[measure.name])


def _sparse(table: np.ndarray) -> Counts:
    codes = np.flatnonzero(table)
    return {"codes": codes, "counts": table.reshape(-1)[codes]}
