"""None of the words: closed forms, what contrast words can and cannot change, segments."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from twostage.errors import UserError
from twostage.predictions.contrasted import ContrastedPrediction, FlooredPrediction, masks_of
from twostage.predictions.dense import DensePrediction
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.predictions.prediction import UNLABELLED
from twostage.predictions.segments import instances, panoptic_segments

SIZE = (6, 8)


def dense(logits):
    """A prediction whose scores at `SIZE` are the logits `[C, 6, 8]`."""
    return DensePrediction(logits=logits[None], geometry=Geometry(padded=SIZE, images=[SIZE]), num_classes=len(logits))


def test_pixels_of_contrast_words_are_none():
    scores = torch.randn(7, *SIZE, generator=torch.Generator().manual_seed(0))
    prediction = ContrastedPrediction(asked=dense(scores[:3]), rivalled=dense(scores), num_asked=3)
    (labels,) = prediction.label_maps([SIZE])
    best = scores.argmax(0)
    assert torch.equal(labels, torch.where(best < 3, best, UNLABELLED))
    assert 0 < (labels == UNLABELLED).float().mean() < 1
    assert torch.equal(prediction.scores([SIZE])[0], scores[:3])


def test_contrast_words_only_take_pixels_away():
    """However a system's scores of the asked words change when words are added, a pixel never moves between them."""
    generator = torch.Generator().manual_seed(1)
    alone = dense(torch.randn(3, *SIZE, generator=generator))
    together = dense(torch.randn(5, *SIZE, generator=generator))
    (labels,) = ContrastedPrediction(asked=alone, rivalled=together, num_asked=3).label_maps([SIZE])
    (before,), (winners,) = alone.label_maps([SIZE]), together.label_maps([SIZE])
    assert torch.equal(labels[labels >= 0], before[labels >= 0])
    assert torch.equal(labels >= 0, winners < 3)
    assert ((labels >= 0) & (winners != before)).any()  # the case is among them


def test_what_a_system_calls_none_itself_stays_none():
    masks = MaskPrediction(
        mask_logits=torch.full((1, 1, *SIZE), 9.0),
        class_logits=torch.zeros(1, 1, 3),
        geometry=Geometry(padded=SIZE, images=[SIZE]),
        class_weights=torch.zeros(1, 1, 2),
        num_named=2,
    )
    (labels,) = ContrastedPrediction(asked=dense(torch.ones(1, *SIZE)), rivalled=masks, num_asked=1).label_maps([SIZE])
    assert (labels == UNLABELLED).all()


def test_least_score():
    scores = torch.linspace(-1, 1, 2 * 48).reshape(2, *SIZE)
    prediction = FlooredPrediction(prediction=dense(scores), min_score=0.5)
    assert torch.equal(prediction.label_maps([SIZE])[0], torch.where(scores[1] >= 0.5, 1, UNLABELLED))
    assert torch.equal(prediction.scores([SIZE])[0], scores)


@pytest.mark.parametrize("value", ["0.5", True, float("nan")])
def test_a_least_score_is_a_number(value):
    with pytest.raises(UserError, match="min_score is"):
        FlooredPrediction(prediction=dense(torch.zeros(1, *SIZE)), min_score=value)


@pytest.fixture
def halves():
    """Two masks, left and right; the left one is class 0, the right one class 2 of three and then class 1."""
    masks = torch.full((1, 2, *SIZE), -9.0)
    masks[0, 0, :, :4] = masks[0, 1, :, 4:] = 9.0
    logits = torch.tensor([[[9.0, 0.0, 0.0, 0.0], [0.0, 8.0, 9.0, 0.0]]])
    return MaskPrediction(mask_logits=masks, class_logits=logits, geometry=Geometry(padded=SIZE, images=[SIZE]))


def test_masks_of_contrast_words_leave_no_segment(halves):
    left = torch.arange(8).expand(SIZE) < 4
    asked = dataclasses.replace(halves, class_logits=halves.class_logits[..., [0, 1, 3]])
    prediction = ContrastedPrediction(asked=asked, rivalled=halves, num_asked=2)
    masks = masks_of(FlooredPrediction(prediction=prediction, min_score=0.0))
    assert masks.num_named == 2
    ((ids, segments),) = panoptic_segments(masks, [SIZE], [0, 1], score_threshold=0.5)
    assert [s["category_id"] for s in segments] == [0] and torch.equal(ids == 1, left)
    ((ids, segments),) = panoptic_segments(masks_of(asked), [SIZE], [0, 1], score_threshold=0.5)
    assert [s["category_id"] for s in segments] == [0, 1]
    found = instances(masks, [SIZE])[0]
    assert set(found.pred_classes.tolist()) == {0, 1} and len(found) == 4
    # Class probabilities are those of the competition.
    assert float(found.scores[1]) == pytest.approx(float(halves.class_logits[0, 1].softmax(-1)[1]), rel=1e-3)


def test_predictions_without_masks_have_none():
    one, two = dense(torch.zeros(1, *SIZE)), dense(torch.zeros(2, *SIZE))
    assert masks_of(one) is None
    assert masks_of(ContrastedPrediction(asked=one, rivalled=two, num_asked=1)) is None
