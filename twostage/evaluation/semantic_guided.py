"""Semantic-guided IoU: a class taken for its synonym or hypernym counts in part (SCAN, Liu et al., CVPR 2024, section 3.4).

With n(p, g) the pixels of class g predicted as p, and F(g) the classes that stand for g (its "fathers", fixed tables of
the authors for A-150, A-847 and PC-459), the true positives of g become

    n(g, g) + sum over f in F(g) of beta * n(f, g),   beta = (n(f, g) + n(f, f)) / pixels predicted as f.

The union stays that of the plain IoU. The mean divides the sum over classes with labels by the number of classes that have
labels or predictions, as in the published evaluator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from twostage.errors import UserError
from twostage.evaluation.confusion import ConfusionMatrix
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.measures import Counts, EvaluatedImage, Measure, count_pairs

Fathers = Mapping[int, Sequence[int]]
_TABLES = Path(__file__).with_name("father_classes.json")


def father_classes(benchmark: str) -> Fathers:
    """The authors' table of a benchmark of the catalogue: class -> the classes that may stand for it.

    Raises:
        UserError: there is none for this benchmark.
    """
    tables = json.loads(_TABLES.read_text(encoding="utf-8"))
    known = [name for name in tables if name != "source"]
    if benchmark not in known:
        raise UserError(
            f"semantic-guided IoU is defined for {', '.join(known)}, not for '{benchmark}'; set TEST.SG_IOU False"
        )
    return {int(c): fathers for c, fathers in tables[benchmark].items()}


def semantic_guided_iou(matrix: ConfusionMatrix, fathers: Fathers) -> np.ndarray:
    """`[K]` fractions; NaN for classes without labels. See the module's text."""
    hits = matrix.true_positives.astype(np.float64)
    labelled, predicted = matrix.label_pixels, matrix.predicted_pixels
    pairs = np.array([(f, c) for c, row in fathers.items() for f in row], np.int64).reshape(-1, 2)
    father, child = pairs.T
    taken = _pixels(matrix, father, child)
    seen = predicted[father] > 0
    beta = np.ones(len(pairs))
    beta[seen] = (taken + hits[father])[seen] / predicted[father][seen]
    guided = hits.copy()
    np.add.at(guided, child, beta * taken)
    iou = np.full(matrix.num_classes, np.nan)
    present = labelled > 0
    iou[present] = guided[present] / (labelled + predicted - hits)[present]
    return iou


def _pixels(matrix: ConfusionMatrix, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """n(p, g) of every pair, without a dense matrix."""
    codes, counts = matrix.pairs()
    wanted = prediction * matrix.num_classes + label
    if not codes.size:
        return np.zeros(len(wanted))
    place = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
    return np.where(codes[place] == wanted, counts[place], 0).astype(np.float64)


class SemanticGuidedMeasure(Measure):
    """Mean semantic-guided IoU, on the benchmarks that have a table."""

    name = "semantic-guided"

    def __init__(self, dataset: EvaluatedDataset) -> None:
        super().__init__(dataset)
        self._fathers = father_classes(dataset.info.benchmark or dataset.name)
        self._matrix = ConfusionMatrix(dataset.num_classes)

    def of_image(self, image: EvaluatedImage) -> Counts:
        return count_pairs(image.prediction, image, self.dataset.num_classes)

    def add(self, counts: Counts) -> None:
        self._matrix.add(counts["codes"], counts["counts"])

    def total(self) -> Counts:
        codes, counts = self._matrix.pairs()
        return {"codes": codes, "counts": counts}

    def figures(self) -> dict[str, float]:
        iou = semantic_guided_iou(self._matrix, self._fathers)
        counted = (self._matrix.label_pixels + self._matrix.predicted_pixels) > 0
        return {"SG-mIoU": 100 * float(np.nansum(iou) / max(int(counted.sum()), 1))}
