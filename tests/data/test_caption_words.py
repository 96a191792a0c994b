"""Captions joined with labelled pictures, and the words drawn from them."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from twostage.data.caption_words import CaptionWords, draw_words, with_captions
from twostage.data.captions import register_caption_set
from twostage.data.toybox.dataset import plan_scenes
from twostage.data.toybox.scene_sentences import toybox_train_captions
from twostage.errors import UserError


@pytest.fixture
def captions():
    pairs = [
        {"file_name": "/x/a.jpg", "caption": "A man riding a wave."},
        {"file_name": "/x/a.jpg", "caption": "a surfboard"},
        {"file_name": "/x/b.png", "caption": "there it is"},
    ]
    register_caption_set("captions_of_a_test", lambda: pairs)
    yield "captions_of_a_test"
    DatasetCatalog.remove("captions_of_a_test")
    MetadataCatalog.remove("captions_of_a_test")


def test_pictures_get_their_captions_by_name(captions):
    records = [{"file_name": f"/elsewhere/{name}.jpg"} for name in ("a", "b", "c")]
    found = with_captions(records, captions)
    assert [record["captions"] for record in found] == [
        ["A man riding a wave.", "a surfboard"],
        ["there it is"],
        [],
    ]


def test_words_are_phrases_of_one_caption():
    np.random.seed(0)
    seen = {tuple(sorted(set(draw_words(["a man riding a wave", "a dog"], 8)))) for _ in range(40)}
    assert seen <= {("man", "wave"), ("man",), ("wave",), ("dog",)} and ("dog",) in seen and ("man", "wave") in seen
    assert draw_words([], 3) == draw_words(["there it is"], 3) == ["", "", ""]
    mapper = CaptionWords(lambda record: {**record, "image": 1}, count=2)
    assert mapper({"captions": ["a dog"]})["words"] == ["dog", "dog"]


def test_sets_without_captions_are_told(captions):
    with pytest.raises(UserError, match=r"'toybox_train', which is a data set without captions"):
        with_captions([{"file_name": "a.jpg"}], "toybox_train")
    with pytest.raises(UserError, match=r"no known data set"):
        with_captions([{"file_name": "a.jpg"}], "captions_of_a_text")
    with pytest.raises(UserError, match=r"no caption for any of the 1 training pictures"):
        with_captions([{"file_name": "z.jpg"}], captions)


def test_toybox_captions_say_what_scenes_show(tmp_path):
    pairs = toybox_train_captions(tmp_path)
    first = plan_scenes(0, "train", 1)[0]
    assert len(pairs) == 3600 and pairs[0]["file_name"].endswith(f"{first.name}.jpg")
    for name in (*(thing.name for thing in first.things), *first.stuff):
        assert name in pairs[0]["caption"]
    assert pairs == toybox_train_captions(tmp_path)
