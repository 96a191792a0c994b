"""Forms of files: what a network gives to be traced, and what is made of it, is the system's own prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import twostage
from twostage.errors import UserError
from twostage.export.comparison import toybox_pictures
from twostage.export.dense_forms import traced_election
from twostage.export.forms import FORMS, form_of
from twostage.export.network import Network
from twostage.inference.early_rejection import PixelVotes
from twostage.systems.cards import all_cards
from twostage.vocabulary import Vocabulary

WORDS = ("grass", "sky", "blue star", "water", "sand", "red ring")
BACKGROUND = ("background", *WORDS)
NO_CACHE = ["MODEL.CLIP.TEXT_CACHE", ""]


@pytest.mark.parametrize(
    ("system", "opts", "words"),
    [
        ("trident", ["TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.TILE", "96", "TEST.SLIDING.STRIDE", "64"], WORDS),
        ("clip_dinoiser", ["MODEL.CLIP_DINOISER.BACKGROUND", "True"], WORDS),
        ("talk2dino", ["MODEL.TALK2DINO.BACKGROUND_SCORE", "0.5", "MODEL.TALK2DINO.CLEANING", "0.8"], BACKGROUND),
        (
            "maskclip_plus",
            ["MODEL.MASKCLIP_PLUS.LEARNED_BACKGROUND", "True", "MODEL.MASKCLIP_PLUS.HIDDEN_CLASSES", "[3]"],
            BACKGROUND,
        ),
        ("segclip", [], WORDS[:3]),
        ("errseg", ["MODEL.ERRSEG.TEST_SLOTS", "4"], WORDS),
        ("errseg", [], WORDS[:2]),
        ("ovseg", ["MODEL.OVSEG.REGIONS", "attention_bias"], WORDS),
        ("ovseg", ["MODEL.OVSEG.REGIONS", "mask_pool"], WORDS),
    ],
)
def test_a_network_and_its_form_give_the_systems_prediction(
    system: str, opts: list[str], words: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    segmenter = twostage.load(f"toybox/{system}", device="cpu", opts=[*NO_CACHE, *opts])
    model, cfg, form = segmenter.model, segmenter.cfg, form_of(segmenter.cfg)
    form.check(model, cfg)
    about, vocabulary = form.about(model, cfg), Vocabulary(words)
    # No multiple of any patch or stride.
    picture = toybox_pictures(1)[0][:117, :151]
    size = (picture.shape[0] + 20, picture.shape[1] - 13)
    with torch.inference_mode():
        images = model.preprocess([{"image": torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)}])
        text = form.text(model.text, vocabulary, cfg, about)
        network = Network(model, form, padded=form.reads_padding(cfg))
        outputs = network(images[0][None], *form.tensors(text))
        found = form.prediction([tuple(outputs)], images, text, cfg, about)
        expected = model.decode(model.encode(images), model.embed_vocabulary(vocabulary))
        (ours,), (theirs,) = found.scores([size]), expected.scores([size])
        assert ours.shape == theirs.shape == (len(words), *size)
        assert ours.std() > 0
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        assert (found.label_maps([size])[0] == expected.label_maps([size])[0]).float().mean() > 0.999


@pytest.mark.parametrize(("classes", "slots"), [(1, 4), (2, 4), (5, 4), (20, 4), (20, 30)])
def test_the_election_that_is_traced_is_that_of_the_pixels(classes: int, slots: int) -> None:
    scores = torch.rand((classes, 9, 7), generator=torch.Generator().manual_seed(classes))
    assert torch.equal(traced_election(scores, slots), PixelVotes(slots=slots).kept([scores]))


def test_a_background_without_a_rule_is_refused() -> None:
    segmenter = twostage.load("toybox/segclip", device="cpu", opts=NO_CACHE)
    form = form_of(segmenter.cfg)
    with pytest.raises(UserError, match="no rule for a class 'background'"):
        form.text(segmenter.model.text, Vocabulary(BACKGROUND), segmenter.cfg, {})


def test_every_system_has_a_form_or_a_reason() -> None:
    for name in {card.meta_architecture for card in all_cards()} - set(FORMS):
        cfg = twostage.config.default_config()
        cfg.MODEL.META_ARCHITECTURE = name
        with pytest.raises(UserError, match=f"^{name} is not exported: (?!nobody)"):
            form_of(cfg)
