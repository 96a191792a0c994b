"""From predictions of masks and of dense logits to scores and label maps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from twostage.inference import blocks
from twostage.inference.resampling import RowwiseResize
from twostage.predictions.dense import DensePrediction
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction

SIZES = [(50, 61), (32, 40)]


@pytest.fixture
def geometry():
    return Geometry(padded=(64, 64), images=[(50, 61), (64, 64)])


@pytest.fixture
def masks(geometry):
    torch.manual_seed(0)
    return MaskPrediction(
        mask_logits=4 * torch.randn(2, 7, 8, 8), class_logits=3 * torch.randn(2, 7, 6), geometry=geometry
    )


def test_mask_scores_follow_the_formula(masks):
    scores = masks.scores(SIZES)[1]
    logits = F.interpolate(masks.mask_logits[1:], size=(64, 64), mode="bilinear", align_corners=False)
    logits = F.interpolate(logits, size=(32, 40), mode="bilinear", align_corners=False)[0]
    probability = masks.class_logits[1].softmax(-1)[:, :-1]
    torch.testing.assert_close(scores, torch.einsum("qc,qhw->chw", probability, logits.sigmoid()), rtol=1e-4, atol=1e-5)


def test_sigmoid_comes_after_the_resize(masks):
    early = torch.einsum("qc,qhw->chw", masks.class_probabilities[1], masks.mask_logits[1].sigmoid())
    early = F.interpolate(early[None], size=(32, 40), mode="bilinear", align_corners=False)[0]
    assert (masks.scores(SIZES)[1] - early).abs().max() > 1e-2


@pytest.mark.parametrize("threshold", [None, 0.4])
@pytest.mark.parametrize("floats", [3000, 16_000_000])
def test_sigmoid_at_image_size_comes_before_the_last_resize(masks, monkeypatch, floats, threshold):
    monkeypatch.setattr(blocks, "STRIP_FLOATS", floats)
    early = dataclasses.replace(masks, resize_scores=True, mask_threshold=threshold)
    logits = F.interpolate(masks.mask_logits[1:], size=(64, 64), mode="bilinear", align_corners=False)
    weights = logits.sigmoid() if threshold is None else (logits.sigmoid() > threshold).float()
    wanted = torch.einsum("qc,bqhw->bchw", masks.class_probabilities[1], weights)
    wanted = F.interpolate(wanted, size=(32, 40), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(early.scores(SIZES)[1], wanted, rtol=1e-4, atol=1e-5)
    assert (early.label_maps(SIZES)[1] == wanted.argmax(0)).float().mean() > 0.999


def test_class_weights_take_the_place_of_the_probabilities(masks):
    scores = torch.rand(2, 7, 5)
    joined = dataclasses.replace(masks, class_weights=scores)
    plain = dataclasses.replace(masks, class_logits=torch.cat([scores.log(), torch.full((2, 7, 1), -1e9)], dim=-1))
    shares = scores / scores.sum(-1, keepdim=True)
    torch.testing.assert_close(plain.class_probabilities, shares)
    weights = dataclasses.replace(masks, class_weights=shares)
    torch.testing.assert_close(weights.scores(SIZES)[0], plain.scores(SIZES)[0], rtol=1e-4, atol=1e-5)
    # Void stays what the generator says; the classes share the rest.
    labels = joined.label_probabilities
    torch.testing.assert_close(labels.sum(-1), torch.ones(2, 7))
    torch.testing.assert_close(labels[..., -1], masks.class_logits.softmax(-1)[..., -1])
    torch.testing.assert_close(labels[..., :-1] / (1 - labels[..., -1:]), shares)


@pytest.mark.parametrize("floats", [100, 5000, 16_000_000])
@pytest.mark.parametrize("block", [2, 256])
def test_label_maps_equal_the_argmax_of_scores(masks, geometry, monkeypatch, floats, block):
    monkeypatch.setattr(blocks, "STRIP_FLOATS", floats)
    monkeypatch.setattr(blocks, "CLASS_BLOCK", block)
    dense = DensePrediction(logits=torch.randn(2, 5, 8, 8), geometry=geometry, num_classes=5)
    for prediction in (masks, dense):
        for labels, scores in zip(prediction.label_maps(SIZES), prediction.scores(SIZES), strict=True):
            assert labels.dtype == torch.int64
            assert (labels == scores.argmax(0)).float().mean() > 0.999


@pytest.mark.parametrize("floats", [100, 16_000_000])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_best_scores_are_those_of_the_whole_volume(masks, geometry, monkeypatch, floats, count):
    monkeypatch.setattr(blocks, "STRIP_FLOATS", floats)
    monkeypatch.setattr(blocks, "CLASS_BLOCK", 2)
    kept = torch.tensor([[1, 4], [0, 2]])
    dense = DensePrediction(logits=torch.randn(2, 5, 8, 8), geometry=geometry, num_classes=5)
    pruned = dataclasses.replace(dense, logits=dense.logits[:, :2], kept=kept, fill=-0.5)
    for prediction in (masks, dense, pruned):
        for best, scores in zip(prediction.top(SIZES, count), prediction.scores(SIZES), strict=True):
            wanted, labels = scores.sort(dim=0, descending=True, stable=True)
            torch.testing.assert_close(best.scores, wanted[:count], rtol=1e-5, atol=1e-6)
            assert (best.labels == labels[:count]).float().mean() > 0.999
            assert best.labels.dtype == torch.int64


def test_masks_at_image_size_are_torchs_bit_for_bit(masks, geometry):
    for index, (height, width) in enumerate(geometry.images):
        logits = masks.mask_logits[index]
        wanted = F.interpolate(logits[None], size=geometry.padded, mode="bilinear", align_corners=False)[0]
        ours = geometry.at_image_size(index, logits)
        assert torch.equal(ours, wanted[:, :height, :width])
        resample = geometry.resampler(index, (8, 8), (height, width), logits.device)
        torch.testing.assert_close(ours, resample(logits), rtol=1e-4, atol=1e-5)


def test_void_never_wins(geometry):
    logits = torch.zeros(2, 1, 4)
    logits[..., -1] = 50
    logits[..., 2] = 1
    prediction = MaskPrediction(mask_logits=torch.zeros(2, 1, 8, 8), class_logits=logits, geometry=geometry)
    assert prediction.label_maps(SIZES)[0].unique().tolist() == [2]


def test_early_rejection_keeps_class_numbers(geometry):
    torch.manual_seed(1)
    full = torch.randn(2, 6, 8, 8)
    full[:, [0, 3]] -= 100
    kept = torch.tensor([[1, 2, 4, 5]] * 2)
    pruned = DensePrediction(logits=full[:, kept[0]], geometry=geometry, num_classes=6, kept=kept, fill=-100.0)
    whole = DensePrediction(logits=full, geometry=geometry, num_classes=6)
    for a, b in zip(pruned.label_maps(SIZES), whole.label_maps(SIZES), strict=True):
        assert torch.equal(a, b)
    scores = pruned.scores(SIZES)[0]
    assert scores.shape == (6, 50, 61) and bool((scores[[0, 3]] == -100).all())


class _Largest(TorchDispatchMode):
    """Most elements of a tensor that any operation made."""

    found = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.found = max(self.found, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize(
    ("what", "sharpness", "side"), [("label_maps", 0, 256), ("label_maps", 8, 256), ("top", 0, 96)]
)
def test_memory_does_not_hold_classes_times_pixels(monkeypatch, what, sharpness, side):
    """The largest tensor while 5,000 classes are labelled, or their best are found, is bounded by the strip budget."""
    monkeypatch.setattr(blocks, "STRIP_FLOATS", 600_000)
    geometry = Geometry(padded=(256, 256), images=[(256, 256)])
    prediction = MaskPrediction(
        mask_logits=torch.randn(1, 10, 16, 16), class_logits=sharpness * torch.randn(1, 10, 5001), geometry=geometry
    )
    with _Largest() as largest:
        if what == "label_maps":
            labels = prediction.label_maps([(side, side)])[0]
        else:
            labels = prediction.top([(side, side)], 3)[0].labels[0]
    assert labels.shape == (side, side)
    # Labels of 64 bits count double; a map of all scores has 46 or 328 million elements.
    assert side * side <= largest.found <= 2 * 600_000


@pytest.mark.parametrize("queries", [7, 5])
@pytest.mark.parametrize("only_covered", [False, True])
def test_few_sums_are_made_before_they_are_enlarged(geometry, monkeypatch, queries, only_covered):
    """At the image's size, so that no more maps are enlarged than there are sums; the labels are those of enlarged masks."""
    torch.manual_seed(1)
    masks = MaskPrediction(
        mask_logits=4 * torch.randn(2, queries, 8, 8) - 4,
        class_logits=3 * torch.randn(2, queries, 6),
        geometry=geometry,
        resize_scores=True,
        only_covered=only_covered,
    )
    sizes, enlarged = [(90, 101), (130, 127)], []
    resize = RowwiseResize.__call__

    def counted(self, band, rows):
        enlarged.append(len(band))
        return resize(self, band, rows)

    monkeypatch.setattr(RowwiseResize, "__call__", counted)
    labels, scores = masks.label_maps(sizes), masks.scores(sizes)
    assert set(enlarged) == ({6, 5} if queries == 7 else {5})
    monkeypatch.setattr(MaskPrediction, "_sums_first", lambda *_, **__: False)
    for found, wanted in zip((*labels, *scores), (*masks.label_maps(sizes), *masks.scores(sizes)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert any((found < 0).any() for found in labels) == only_covered
