"""Contrast words with every paradigm: they take pixels away and change nothing else; without them all is as before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import twostage
from twostage.errors import UserError
from twostage.predictions.contrasted import masks_of
from twostage.systems.training_free.dense_clip.prediction import LabelRule
from twostage.vocabulary import Vocabulary

CONFIGS = (
    "san", "ovseg", "scan", "fcclip", "mask2former", "odise", "catseg", "sed", "segclip", "maskclip_plus", "maskclip",
    "clip_surgery", "naclip",
)  # fmt: skip
WITH_MASKS = {"san", "ovseg", "scan", "fcclip", "mask2former", "odise", "segclip"}
WORDS = ["grass", "blue star", "sky"]
OTHERS = ["lava", "red circle", "marble", "wood"]
OPTS = ["MODEL.CLIP.TEXT_CACHE", "", "MODEL.ODISE.DIFFUSION.PRETRAINED", ""]


def pixels(seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    return coarse.repeat(10, 0).repeat(10, 1)


def loaded(config: str, *opts: str) -> twostage.Segmenter:
    torch.manual_seed(0)
    return twostage.load(f"toybox/{config}", device="cpu", opts=[*OPTS, *opts])


@pytest.mark.parametrize("config", CONFIGS)
def test_contrast_words_only_take_pixels_away(config):
    segmenter = loaded(config)
    photo = segmenter.encode(pixels())
    with torch.inference_mode():
        before = segmenter.model.decode(photo.features, segmenter.model.embed_vocabulary(Vocabulary(tuple(WORDS))))
        labels = before.label_maps([(70, 90)])[0].numpy()
        everything = Vocabulary((*WORDS, *OTHERS))
        joint = segmenter.model.decode_rivalled(photo.features, segmenter.model.embed_vocabulary(everything))
        winners = joint.label_maps([(70, 90)])[0].numpy()
    without = segmenter(photo, WORDS, others=None)
    assert np.array_equal(without.labels, labels) and without.others == ()
    assert all(torch.equal(a, b) for a, b in zip(without.scores(), before.scores([(70, 90)])[0], strict=True))
    result = segmenter(photo, WORDS, others=OTHERS)
    assert result.others == tuple(OTHERS)
    assert np.array_equal(result.labels, np.where((winners >= 0) & (winners < 3), labels, -1))
    assert torch.equal(result.scores(), without.scores())
    assert (masks_of(result.prediction) is not None) == (config in WITH_MASKS)
    if config in WITH_MASKS:
        panoptic = result.panoptic(["blue star"], score_threshold=0.0)
        assert {s["category_id"] for s in panoptic.segments} <= {0, 1, 2}


@pytest.mark.parametrize("config", ["maskclip", "sed"])
def test_one_word_takes_the_picture_unless_others_compete(config):
    segmenter = loaded(config, "MODEL.CLIP.TEMPLATES", "single")
    photo = segmenter.encode(pixels(1))
    assert (segmenter(photo, ["grass"], others=None).labels == 0).all()
    result = segmenter(photo, ["grass"])
    assert len(result.others) > 100 and "grass" not in result.others and "sand" in result.others
    assert (result.labels == -1).any()
    assert result.to_dict()["others"] == list(result.others)


def test_background_by_a_threshold_is_no_answer_to_contrast_words():
    """Where a contrast word is the best but improbable, the rule for background does not give the pixel to a name."""
    segmenter = loaded("maskclip")
    photo = segmenter.encode(pixels())
    names, others = ["background", "grass"], ["lava", "sand", "wood"]
    plain = segmenter(photo, names, others=others).labels
    assert {-1} < set(np.unique(plain))
    segmenter.model.rule = LabelRule(logit_scale=segmenter.model.rule.logit_scale, probability_threshold=0.999)
    result = segmenter(photo, names, others=others).labels
    assert np.array_equal(result < 0, plain < 0)


def test_refinement_sees_only_names_that_can_win():
    """PAMR is asked for few of many contrast words, and the answer is nearly that of the whole competition."""
    segmenter = loaded("naclip")
    photo = segmenter.encode(pixels())
    others = [
        f"{colour} {shape}" for colour in ("red", "blue", "pink", "white") for shape in ("star", "ring", "rod", "bolt")
    ]
    with torch.inference_mode():
        text = segmenter.model.embed_vocabulary(Vocabulary((*WORDS, *others)))
        fewer = segmenter.model.decode_rivalled(photo.features, text)
        whole, part = (p.label_maps([(70, 90)])[0] for p in (segmenter.model.decode(photo.features, text), fewer))
    assert len(fewer.classes) < len(text.classes) and fewer.num_classes == len(text.classes)
    assert (whole == part).float().mean() > 0.98


def test_least_score():
    segmenter = loaded("san")
    result = segmenter(pixels(), WORDS, others=None)
    best = result.scores().amax(0).numpy()
    least = float(np.median(best))
    floored = segmenter(pixels(), WORDS, others=None, min_score=least)
    assert np.array_equal(floored.labels, np.where(best >= least, result.labels, -1))


def test_classes_that_are_no_words_have_no_others():
    segmenter = loaded("mask2former_agnostic")
    assert segmenter(pixels(), ["object"]).others == ()
    with pytest.raises(UserError, match="not words"):
        segmenter(pixels(), ["object"], others=["sky"])


def test_many_pictures_have_the_same_others():
    segmenter = loaded("maskclip")
    mapped = list(segmenter.map([pixels(0), pixels(1)], ["grass"], others=OTHERS, progress=False))
    for seed, entry in enumerate(mapped):
        assert entry.result.others == tuple(OTHERS)
        assert np.array_equal(entry.result.labels, segmenter(pixels(seed), ["grass"], others=OTHERS).labels)
