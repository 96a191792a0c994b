"""The words that `choices` allow are those that the code knows where it keeps a table of its own."""

from __future__ import annotations

from typing import get_args

import pytest

from twostage.clip.dense.attentions import FULL_ATTENTIONS
from twostage.clip.keys import Attention
from twostage.clip.templates import TEMPLATES
from twostage.config.loading import key_groups
from twostage.proposals.backbones import BACKBONES
from twostage.proposals.backbones.resnet import _BLOCKS


def allowed(key: str) -> set[object]:
    return {value for group in key_groups() for value in group.choices.get(key, ())}


@pytest.mark.parametrize(
    ("key", "table"),
    [("MODEL.CLIP.TEMPLATES", TEMPLATES), ("MODEL.BACKBONE.NAME", BACKBONES), ("MODEL.RESNETS.DEPTH", _BLOCKS)],
)
def test_tables_and_choices_agree(key, table):
    assert allowed(key) == set(table)


def test_published_outputs_are_said_of_attentions_that_exist():
    assert set(FULL_ATTENTIONS) < set(get_args(Attention)) < allowed("MODEL.TRAINING_FREE.METHOD")
