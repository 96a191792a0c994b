"""Early rejection against the rule written out pixel by pixel."""

from __future__ import annotations

import pytest
import torch

from twostage.inference.early_rejection import EarlyRejection, PixelVotes, stack_kept
from twostage.predictions.dense import DensePrediction
from twostage.predictions.geometry import Geometry


def by_the_rule(logits, top_k):
    kept = set()
    for pixel in logits.flatten(1).T:
        kept |= set(pixel.argsort(descending=True)[:top_k].tolist())
    return sorted(kept)


@pytest.mark.parametrize("top_k", [1, 2, 5, 40])
@pytest.mark.parametrize("block", [1, 7, 60])
def test_kept_classes_equal_the_rule(top_k, block):
    torch.manual_seed(0)
    # Classes with a low mean exist, so that something is rejected.
    logits = torch.randn(30, 3, 4) + torch.linspace(-3, 3, 30)[:, None, None]
    kept = EarlyRejection(top_k=top_k).kept(iter(logits.split(block)))
    assert kept.tolist() == by_the_rule(logits, top_k)
    assert len(kept) < 30 or top_k == 40


@pytest.mark.parametrize("block", [1, 7, 60])
def test_votes_equal_the_rule(block):
    torch.manual_seed(0)
    # Whole numbers, so that there are ties at pixels and between votes.
    logits = torch.randint(0, 4, (30, 3, 4)).float()
    wanted = torch.zeros(30)
    for pixel in logits.flatten(1).T:
        for weight, index in zip((1, 0.1, 0.01), sorted(range(30), key=lambda c: (-pixel[c], c)), strict=False):
            wanted[index] += weight
    rule = PixelVotes(slots=8)
    votes = rule.votes(iter(logits.split(block)))
    torch.testing.assert_close(votes, wanted)
    best = sorted(range(30), key=lambda c: (-votes[c], c))[:8]
    assert rule.kept(iter(logits.split(block))).tolist() == sorted(best)


def test_slots_that_no_class_was_voted_for_go_to_the_first_ones():
    logits = torch.zeros(6, 2, 2)
    logits[3:] = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    assert PixelVotes(slots=4).kept([logits]).tolist() == [0, 3, 4, 5]
    assert PixelVotes(slots=9).kept([logits]).tolist() == list(range(6))
    assert PixelVotes(slots=1).kept([logits[:1]]).tolist() == [0]


def test_images_with_different_survivors_make_one_prediction():
    scores = [torch.tensor([[[0.2, 0.9]], [[0.7, 0.1]]]), torch.tensor([[[0.5, 0.4]]])]
    stacked, kept = stack_kept(scores, [torch.tensor([1, 3]), torch.tensor([2])])
    assert kept.tolist() == [[1, 3], [2, 2]]
    geometry = Geometry(padded=(1, 2), images=[(1, 2), (1, 2)])
    prediction = DensePrediction(logits=stacked, geometry=geometry, num_classes=4, kept=kept, fill=0.0)
    sizes = [(1, 2), (1, 2)]
    assert [m.tolist() for m in prediction.label_maps(sizes)] == [[[3, 1]], [[2, 2]]]
    first, second = prediction.scores(sizes)
    torch.testing.assert_close(first[:, 0], torch.tensor([[0, 0], [0.2, 0.9], [0, 0], [0.7, 0.1]]))
    torch.testing.assert_close(second[:, 0], torch.tensor([[0, 0], [0, 0], [0.5, 0.4], [0, 0]]))
