"""From predictions to scores, label maps and segments."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from twostage.inference import blocks
from twostage.predictions.masks import DensePrediction, Frames, MaskPrediction

SIZES = [(50, 61), (32, 40)]


@pytest.fixture
def frames():
    return Frames(padded=(64, 64), images=[(50, 61), (64, 64)])


@pytest.fixture
def masks(frames):
    torch.manual_seed(0)
    return MaskPrediction(mask_logits=4 * torch.randn(2, 7, 8, 8), class_logits=3 * torch.randn(2, 7, 6), frames=frames)


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
def test_label_maps_equal_the_argmax_of_scores(masks, frames, monkeypatch, floats, block):
    monkeypatch.setattr(blocks, "STRIP_FLOATS", floats)
    monkeypatch.setattr(blocks, "CLASS_BLOCK", block)
    dense = DensePrediction(logits=torch.randn(2, 5, 8, 8), frames=frames, num_classes=5)
    for prediction in (masks, dense):
        for labels, scores in zip(prediction.label_maps(SIZES), prediction.scores(SIZES), strict=True):
            assert labels.dtype == torch.int64
            assert (labels == scores.argmax(0)).float().mean() > 0.999


def test_masks_at_image_size_are_torchs_bit_for_bit(masks, frames):
    for index, (height, width) in enumerate(frames.images):
        logits = masks.mask_logits[index]
        wanted = F.interpolate(logits[None], size=frames.padded, mode="bilinear", align_corners=False)[0]
        ours = frames.at_image_size(index, logits)
        assert torch.equal(ours, wanted[:, :height, :width])
        resample = frames.resampler(index, (8, 8), (height, width), logits.device)
        torch.testing.assert_close(ours, resample(logits), rtol=1e-4, atol=1e-5)


def test_void_never_wins(frames):
    logits = torch.zeros(2, 1, 4)
    logits[..., -1] = 50
    logits[..., 2] = 1
    prediction = MaskPrediction(mask_logits=torch.zeros(2, 1, 8, 8), class_logits=logits, frames=frames)
    assert prediction.label_maps(SIZES)[0].unique().tolist() == [2]


def test_early_rejection_keeps_class_numbers(frames):
    torch.manual_seed(1)
    full = torch.randn(2, 6, 8, 8)
    full[:, [0, 3]] -= 100
    kept = torch.tensor([[1, 2, 4, 5]] * 2)
    pruned = DensePrediction(logits=full[:, kept[0]], frames=frames, num_classes=6, kept=kept, fill=-100.0)
    whole = DensePrediction(logits=full, frames=frames, num_classes=6)
    for a, b in zip(pruned.label_maps(SIZES), whole.label_maps(SIZES), strict=True):
        assert torch.equal(a, b)
    scores = pruned.scores(SIZES)[0]
    assert scores.shape == (6, 50, 61) and bool((scores[[0, 3]] == -100).all())


def test_memory_does_not_hold_classes_times_pixels(monkeypatch):
    """The largest tensor while 5,000 classes are labelled is bounded by the strip budget."""
    monkeypatch.setattr(blocks, "STRIP_FLOATS", 200_000)
    largest = 0
    real = blocks.running_argmax

    def watch(parts):
        def seen():
            nonlocal largest
            for start, block in parts:
                largest = max(largest, block.numel())
                yield start, block

        return real(seen())

    monkeypatch.setattr(blocks, "running_argmax", watch)
    frames = Frames(padded=(256, 256), images=[(256, 256)])
    prediction = MaskPrediction(
        mask_logits=torch.randn(1, 10, 16, 16), class_logits=torch.randn(1, 10, 5001), frames=frames
    )
    labels = prediction.label_maps([(256, 256)])[0]
    assert labels.shape == (256, 256)
    assert 0 < largest <= 200_000


def test_panoptic_merges_stuff_and_keeps_things_apart():
    frames = Frames(padded=(8, 8), images=[(8, 8)])
    masks = torch.full((1, 4, 8, 8), -20.0)
    masks[0, 0, :4, :4], masks[0, 1, :4, 4:], masks[0, 2, 4:, :4], masks[0, 3, 4:, 4:] = 20.0, 20.0, 20.0, 20.0
    classes = torch.full((1, 4, 3), -20.0)
    # Two things of class 0, two pieces of stuff class 1.
    classes[0, :2, 0] = classes[0, 2:, 1] = 20.0
    prediction = MaskPrediction(mask_logits=masks, class_logits=classes, frames=frames)
    ids, segments = prediction.panoptic([(8, 8)], things=[0])[0]
    assert [(s["category_id"], s["isthing"]) for s in segments] == [(0, True), (0, True), (1, False)]
    assert [int((ids == s["id"]).sum()) for s in segments] == [16, 16, 32]


def test_panoptic_drops_unsure_and_void_masks():
    frames = Frames(padded=(8, 8), images=[(8, 8)])
    classes = torch.tensor([[[0.1, 0.0, 0.0], [0.0, 0.0, 9.0]]])
    prediction = MaskPrediction(mask_logits=torch.full((1, 2, 8, 8), 9.0), class_logits=classes, frames=frames)
    ids, segments = prediction.panoptic([(8, 8)], things=[0])[0]
    assert segments == [] and int(ids.abs().sum()) == 0


def test_panoptic_area_is_what_a_mask_wins():
    """A mask is dropped for the area it loses to others, not for its own pixels below one half."""
    frames = Frames(padded=(4, 8), images=[(4, 8)])
    mask_logits = torch.full((1, 2, 4, 8), -1.0)
    mask_logits[0, 0, :, :4] = 5.0
    mask_logits[0, 1, :, 4:6] = 5.0
    class_logits = torch.full((1, 2, 3), -9.0)
    class_logits[0, 0, 0] = class_logits[0, 1, 1] = 9.0
    prediction = MaskPrediction(mask_logits=mask_logits, class_logits=class_logits, frames=frames)
    ((ids, segments),) = prediction.panoptic([(4, 8)], things=[0])
    assert ids[0].tolist() == [1, 1, 1, 1, 2, 2, 0, 0]
    assert [s["category_id"] for s in segments] == [0, 1] and [s["isthing"] for s in segments] == [True, False]
    # The second mask covers half of the first, which wins as much elsewhere, where it is no mask at all.
    mask_logits[0, 1, :, 2:6] = 9.0
    ((ids, segments),) = prediction.panoptic([(4, 8)], things=[0])
    assert [s["category_id"] for s in segments] == [0, 1] and ids[0].tolist() == [1, 1, 2, 2, 2, 2, 0, 0]
    mask_logits[0, 1, :, 6:] = -0.9
    ((ids, segments),) = prediction.panoptic([(4, 8)], things=[0])
    assert [s["category_id"] for s in segments] == [1] and ids[0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("strip_floats", [blocks.STRIP_FLOATS, 400])
def test_panoptic_in_strips_equals_all_at_once(monkeypatch, strip_floats):
    """Against masks of the whole picture, with both thresholds in use; strips of one row change nothing."""
    monkeypatch.setattr(blocks, "STRIP_FLOATS", strip_floats)
    torch.manual_seed(4)
    coarse = F.interpolate(6 * torch.randn(1, 12, 4, 5) - 3, size=(24, 30), mode="bilinear")
    frames = Frames(padded=(24, 30), images=[(24, 30)])
    prediction = MaskPrediction(mask_logits=coarse, class_logits=3 * torch.randn(1, 12, 5), frames=frames)
    found = {}
    for score, overlap in ((0.0, 0.5), (0.7, 0.3), (0.0, 0.0)):
        ((ids, segments),) = prediction.panoptic(
            [(24, 30)], things=[0, 2], score_threshold=score, overlap_threshold=overlap
        )
        scores, classes = prediction.class_logits[0].softmax(-1).max(-1)
        kept = [q for q in range(12) if classes[q] != 4 and scores[q] > score]
        probabilities = coarse[0].sigmoid()
        owner = (scores[kept, None, None] * probabilities[kept]).argmax(0)
        expected: dict[tuple[int, int], torch.Tensor] = {}
        for place, q in enumerate(kept):
            inside = probabilities[q] >= 0.5
            mask = (owner == place) & inside
            if mask.any() and (owner == place).sum() / inside.sum() >= overlap:
                category = int(classes[q])
                key = (category, q if category in (0, 2) else -1)
                expected[key] = expected.get(key, torch.zeros_like(mask)) | mask
        assert [s["category_id"] for s in segments] == [category for category, _ in expected]
        for segment, mask in zip(segments, expected.values(), strict=True):
            assert torch.equal(ids == segment["id"], mask)
        found[score, overlap] = tuple(s["category_id"] for s in segments)
    assert len(set(found.values())) == 3, found


def test_instances_follow_the_formula(masks):
    probability = masks.class_logits[0].softmax(-1)[:, :-1]
    best = sorted(((float(probability[q, c]), q, c) for q in range(7) for c in range(5)), reverse=True)[:12]
    resample = masks.frames.resampler(0, (8, 8), SIZES[0], torch.device("cpu"))
    wanted = []
    for score, q, c in best:
        if c in (1, 3):
            logits = resample(masks.mask_logits[0, q])
            inside = logits > 0
            wanted.append((score * float(logits.sigmoid()[inside].sum() / (inside.sum() + 1e-6)), c, inside))
    wanted.sort(key=lambda entry: -entry[0])
    found = masks.instances(SIZES, [1, 3], top_k=12)[0]
    assert found.scores.tolist() == pytest.approx([score for score, _, _ in wanted], rel=1e-4)
    assert found.pred_classes.tolist() == [c for _, c, _ in wanted]
    assert torch.equal(found.pred_masks, torch.stack([inside for _, _, inside in wanted]))


def test_instances_without_things_and_in_strips(masks, monkeypatch):
    whole = masks.instances(SIZES)[1]
    assert len(whole) == 35
    monkeypatch.setattr(blocks, "STRIP_FLOATS", 300)
    again = masks.instances(SIZES)[1]
    torch.testing.assert_close(again.scores, whole.scores)
    assert len(masks.instances(SIZES, [])[0]) == 0
