"""Weights for both sides, turns and agreement; our own toy model stands in for theirs."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from conformance.authors.building import Models
from conformance.authors.copying import copy_weights, seed_weights
from conformance.authors.feeding import random_text, smooth_picture
from conformance.authors.measuring import agreement, measure, table
from conformance.authors.sides import Picture, Side, Step
from conformance.authors.standin import StandIn
from twostage.benchmark.names import words
from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.building import build_model

CONFIG = Path(__file__).parents[3] / "configs" / "toybox" / "san.yaml"


class Versioned(nn.Linear):
    """Reads weights without a note of their version as those of an older layout, as Mask2Former's head does."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *more):
        if local_metadata.get("version", 1) < 2:
            state_dict[f"{prefix}weight"] = -state_dict[f"{prefix}weight"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *more)


def test_every_tensor_is_matched_or_named():
    theirs = nn.ModuleDict({"a": Versioned(2, 3), "b": nn.BatchNorm1d(3)})
    weights = {name: torch.full_like(value, 2) for name, value in theirs.state_dict().items()}
    copy_weights(weights, theirs, constants=())
    assert all(bool((value == 2).all()) for value in theirs.state_dict().values())
    fewer = {name: value for name, value in weights.items() if not name.startswith("b.running")}
    with pytest.raises(UserError, match=r"2 theirs that ours lacks: b\.running_mean, b\.running_var$"):
        copy_weights(fewer, theirs, constants=())
    copy_weights(fewer, theirs, constants=[r"b\.running_.*"])
    with pytest.raises(UserError, match=r"1 ours that theirs lacks: c$"):
        copy_weights({**weights, "c": torch.zeros(1)}, theirs, constants=())
    with pytest.raises(UserError, match=r"Dict; compare the settings: 1 of another shape: a\.bias$"):
        copy_weights({**weights, "a.bias": torch.zeros(4)}, theirs, constants=())


def test_agreement():
    scores = torch.rand(3, 4, 5, dtype=torch.float64) + 1
    one = Picture(labels=scores.argmax(0), scores=scores)
    labels, moved = one.labels.clone(), scores.clone()
    labels[0, 0] += 1
    moved[1, 2, 3] += 0.25 * scores.max()
    other = Picture(labels=labels, scores=moved)
    assert agreement(one, one) == {"equal labels": 1.0, "scores apart": 0.0}
    found = agreement(other, one)
    assert found["equal labels"] == pytest.approx(19 / 20) and found["scores apart"] == pytest.approx(0.25)
    with pytest.raises(UserError, match="compare the settings"):
        agreement(one, Picture(labels=labels, scores=scores[:2]))
    found = agreement(Step(loss=2.2, gradient=3.0), Step(loss=2.0, gradient=4.0))
    assert found == pytest.approx({"loss apart": 0.1, "gradient norm apart": 0.25})


def test_both_sides_are_measured_in_turns():
    calls = []

    def side(name, work):
        def run():
            calls.append(name)
            for _ in range(work):
                torch.ones(400, 400) @ torch.ones(400, 400)
            return torch.zeros(2, 2)

        return Side(run=run, result=lambda: Picture(labels=run(), scores=torch.ones(1, 2, 2)))

    row = measure({"ours": side("ours", 5), "theirs": side("theirs", 60)}, turns=3)
    assert row["ratios"]["processor"]["low"] > 2
    assert calls[2:8] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert row["equal labels"] == 1 and row["sides"]["ours"]["classes in the label map"] == 1
    shown = table({"classes": 3, **row})
    assert "theirs / ours, processor" in shown and "100.000%" in shown
    alone = measure({"theirs": side("theirs", 1)}, turns=1)
    assert "ratios" not in alone and "ours" not in table({"classes": 3, **alone})


def test_a_side_that_does_not_fit_is_named():
    def too_much():
        torch.empty(2**60, dtype=torch.uint8)

    with pytest.raises(UserError, match=r"not enough memory for theirs; try .* or --alone theirs"):
        measure({"theirs": Side(run=too_much, result=too_much)}, 1)


@pytest.fixture(scope="module")
def toy():
    cfg = load_config(
        str(CONFIG),
        [
            "MODEL.DEVICE",
            "cpu",
            "MODEL.CLIP.TEXT_CACHE",
            "",
            "MODEL.CLIP.PRETRAINED",
            "",
            "TEST.SEMANTIC_OUTPUT",
            "scores",
        ],
    )
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.mark.parametrize("training", [False, True])
def test_a_wrong_model_would_be_noticed(toy, training):
    ours = copy.deepcopy(toy).train(training)
    official = seed_weights(ours, ours.checkpoint_table())
    assert torch.equal(official["side_adapter_network.query_embed"], ours.side_adapter.query_embed)
    text = random_text(ours, words(5))
    # Our own model answers to Detectron2's interface as theirs do.
    theirs = copy.deepcopy(ours)
    theirs.text = ours.text
    models = Models(authors=StandIn(), ours=ours, theirs=theirs, texts={5: text})

    def row():
        sides = models.steps(5, (64, 96), 2) if training else models.pictures(5, (64, 96), (50, 75))
        return measure(sides, 1)

    equal = row()
    assert models.authors.told == words(5)
    with torch.no_grad():
        theirs.side_adapter.decoder.pix_mlp.layers[-1].bias.add_(1)
    wrong = row()
    if training:
        assert equal["loss apart"] < 1e-6 and equal["gradient norm apart"] < 1e-5
        assert wrong["loss apart"] > 1e-4
    else:
        assert equal["equal labels"] == 1 and equal["scores apart"] < 1e-5
        assert wrong["scores apart"] > 1e-3


def test_the_picture_is_smooth_noise():
    picture = smooth_picture((80, 120)).float()
    assert picture.shape == (3, 80, 120) and picture.std() > 30
    assert (picture[:, :, 1:] - picture[:, :, :-1]).abs().mean() < 4
    assert not torch.equal(smooth_picture((80, 120), 1).float(), picture)
    large = smooth_picture((640, 854))
    assert large.min() > 0 and large.max() < 255
