"""Semantic-guided IoU against the definition written out."""

from __future__ import annotations

import numpy as np
import pytest

from twostage.errors import UserError
from twostage.evaluation.confusion import ConfusionMatrix
from twostage.evaluation.semantic_guided import father_classes, semantic_guided_iou


def filled(dense: np.ndarray) -> ConfusionMatrix:
    matrix = ConfusionMatrix(len(dense))
    codes = np.flatnonzero(dense)
    matrix.add(codes, dense.reshape(-1)[codes])
    return matrix


def test_equals_the_definition():
    rng = np.random.default_rng(0)
    dense = rng.integers(0, 50, (6, 6)) * (rng.random((6, 6)) < 0.7)
    dense[:, 4] = 0  # never labelled
    dense[5] = 0  # never predicted
    fathers = {0: [1, 2], 3: [0], 2: [5], 4: [1]}
    iou = semantic_guided_iou(filled(dense), fathers)
    for c in range(6):
        hits = float(dense[c, c])
        for f in fathers.get(c, []):
            predicted = dense[f].sum()
            beta = (dense[f, c] + dense[f, f]) / predicted if predicted else 1
            hits += beta * dense[f, c]
        union = dense[:, c].sum() + dense[c].sum() - dense[c, c]
        if dense[:, c].sum():
            assert iou[c] == pytest.approx(hits / union)
        else:
            assert np.isnan(iou[c])


def test_without_fathers_it_is_the_plain_iou():
    dense = np.array([[5, 1], [2, 4]])
    np.testing.assert_allclose(semantic_guided_iou(filled(dense), {}), [5 / 8, 4 / 7])


def test_tables_fit_their_class_lists():
    for name, classes, rows in (("ade20k_150", 150, 33), ("ade20k_847", 847, 306), ("pascal_context_459", 459, 122)):
        table = father_classes(name)
        assert len(table) == rows
        assert all(0 <= i < classes for c, fathers in table.items() for i in (c, *fathers))
    with pytest.raises(UserError, match="not for 'cityscapes'"):
        father_classes("cityscapes")
