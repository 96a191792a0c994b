"""Exact pair counts: closed forms, agreement with a slow count, memory with very many classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twostage.evaluation import confusion
from twostage.evaluation.confusion import ConfusionMatrix, pair_counts


def slow_matrix(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for p, g in zip(prediction.tolist(), label.tolist(), strict=True):
        matrix[p, g] += 1
    return matrix


def test_closed_form() -> None:
    prediction = torch.tensor([0, 0, 1, 1, 1, 3])
    label = torch.tensor([0, 1, 1, 1, 0, 2])
    matrix = ConfusionMatrix(4)
    matrix.add(*pair_counts(prediction, label, 4))
    assert matrix.dense().tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert matrix.true_positives.tolist() == [1, 2, 0, 0]
    assert matrix.label_pixels.tolist() == [2, 3, 1, 0]
    assert matrix.predicted_pixels.tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize(("num_classes", "pixels"), [(2, 50), (7, 1000), (300, 1000), (5000, 1000)])
@pytest.mark.parametrize("cells_per_pixel", [0, 4, 10**6])
def test_equals_slow_count(num_classes: int, pixels: int, cells_per_pixel: int, monkeypatch) -> None:
    """Both ways of counting (table and sort) give the same pairs, in the same order."""
    monkeypatch.setattr(confusion, "_CELLS_PER_PIXEL", cells_per_pixel)
    rng = np.random.default_rng(num_classes)
    prediction, label = rng.integers(0, num_classes, (2, pixels))
    codes, counts = pair_counts(torch.from_numpy(prediction), torch.from_numpy(label), num_classes)
    expected_codes, expected_counts = np.unique(prediction * num_classes + label, return_counts=True)
    assert np.array_equal(codes, expected_codes)
    assert np.array_equal(counts, expected_counts)
    if num_classes <= 300:
        matrix = ConfusionMatrix(num_classes)
        matrix.add(codes, counts)
        assert np.array_equal(matrix.dense(), slow_matrix(prediction, label, num_classes))


def test_no_pixel() -> None:
    codes, counts = pair_counts(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 5)
    matrix = ConfusionMatrix(5)
    matrix.add(codes, counts)
    assert matrix.label_pixels.tolist() == [0] * 5


@pytest.mark.parametrize("pending_pairs", [0, 10, 1 << 20])
def test_merge_is_exact_in_any_order(pending_pairs: int, monkeypatch) -> None:
    monkeypatch.setattr(confusion, "_PENDING_PAIRS", pending_pairs)
    rng = np.random.default_rng(1)
    images = [torch.from_numpy(rng.integers(0, 9, (2, 200))) for _ in range(12)]
    parts = [pair_counts(image[0], image[1], 9) for image in images]
    whole = ConfusionMatrix.merged(9, parts)
    halves = [ConfusionMatrix.merged(9, parts[:5]), ConfusionMatrix.merged(9, parts[5:])]
    joined = ConfusionMatrix.merged(9, [halves[1].pairs(), halves[0].pairs()])
    expected = sum(slow_matrix(image[0].numpy(), image[1].numpy(), 9) for image in images)
    assert np.array_equal(whole.dense(), expected)
    assert np.array_equal(joined.dense(), expected)


def test_counts_beyond_float_precision() -> None:
    """2^53 + 1 has no float64: summing in floats would lose the one."""
    matrix = ConfusionMatrix(2)
    matrix.add(np.array([3]), np.array([2**53]))
    matrix.add(np.array([3]), np.array([1]))
    assert matrix.true_positives.tolist() == [0, 2**53 + 1]


def test_memory_with_twenty_thousand_classes() -> None:
    """The largest tensor that counting makes is one int64 per pixel; a dense matrix would be 400 million cells."""
    classes, pixels = 20_000, 1 << 18
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(classes, (pixels,), generator=generator)
    prediction = torch.where(torch.rand(pixels, generator=generator) < 0.5, label, (label * 7 + 3) % classes)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel() * tensor.element_size())
            return result

    with Watch():
        codes, counts = pair_counts(prediction, label, classes)
    assert 0 < largest <= 8 * pixels
    assert counts.sum() == pixels
    matrix = ConfusionMatrix(classes)
    for _ in range(3):
        matrix.add(codes, counts)
    codes, counts = matrix.pairs()
    assert codes.nbytes + counts.nbytes <= 16 * 2 * classes  # two predictions per class
    hits = np.bincount(label[prediction == label].numpy(), minlength=classes)
    assert np.array_equal(matrix.true_positives, 3 * hits)
