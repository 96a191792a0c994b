"""Which words compete: shipped, named, or none."""

from __future__ import annotations

import pytest

from twostage.contrast import choice as module
from twostage.contrast.choice import FEW, OthersChoice, parse_others
from twostage.contrast.lists import contrast_list
from twostage.errors import UserError
from twostage.vocabulary import Vocabulary


class AnyText:
    """A text tower in whose space every name lies at a place of its own; counts what it embeds."""

    def __init__(self) -> None:
        self.calls = 0

    def embed_names(self, names):
        import torch

        self.calls += 1
        seeds = [sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 2**31 for name in names]
        return torch.stack([torch.randn(64, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


TOYBOX = contrast_list("toybox-vit").words


def ask(*names, others="few", text=None):
    return OthersChoice("toybox-convnext", text or AnyText())(Vocabulary(names), others)


def test_shipped_words_without_those_of_the_question():
    assert set(ask("striped blue star", "grass")) == set(TOYBOX) - {"star", "blue star", "striped star", "grass"}
    assert "star" not in ask("sand, star")  # a synonym
    assert ask("striped blue star") == ask("striped blue star", others="auto")


def test_few_words_have_rivals_and_many_have_none():
    many = [f"thing{n}" for n in range(FEW)]
    assert ask(*many) == ()
    assert ask(*many[1:]) == TOYBOX == ask(*many, others="auto")
    assert ask("grass", others=None) == ()


def test_named_words_stay_as_they_are():
    assert ask("striped blue star", others=["star", ["sofa", "couch"]]) == ("star", "sofa, couch")
    assert ask("grass", others=Vocabulary(("sand",))) == ("sand",)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ("aut", "did you mean 'auto'"),
        ("wall, sky", "give 'auto', 'few', None or a list"),
        ([], "others is empty"),
        (["Grass"], "twice"),
        (["sky", "sky"], "twice"),
        ([3], "no name"),
    ],
)
def test_what_is_no_choice_is_refused(others, said):
    with pytest.raises(UserError, match=said):
        ask("grass", others=others)


def test_classes_that_are_no_words():
    choice = OthersChoice("ViT-B-16", None)
    assert choice(Vocabulary(("a",)), None) == choice(Vocabulary(("a",)), "few") == ()
    for others in ("auto", ["sky"]):
        with pytest.raises(UserError, match="classes are not words"):
            choice(Vocabulary(("a",)), others)


def test_each_question_is_answered_once(monkeypatch):
    monkeypatch.setattr(module, "_KEPT", 2)
    text = AnyText()
    choice = OthersChoice("toybox-convnext", text)
    choice(Vocabulary(("a",)), None)
    assert text.calls == 0  # nothing is embedded before it is needed
    choice(Vocabulary(("a",)), "auto")
    calls = text.calls
    choice(Vocabulary(("a",)), "auto")
    choice(Vocabulary(("b",)), "auto")
    choice(Vocabulary(("a",)), "auto")
    assert text.calls == calls + 1
    choice(Vocabulary(("c",)), "auto")
    choice(Vocabulary(("a",)), "auto")
    choice(Vocabulary(("b",)), "auto")
    assert text.calls == calls + 3  # b was the one longest unused


def test_command_line_values(tmp_path):
    assert parse_others("None") is None and parse_others(" auto") == "auto" and parse_others("few") == "few"
    assert parse_others("wall, sky").names == ("wall", "sky")
    (tmp_path / "words.txt").write_text("wall\nsky\n")
    assert parse_others(str(tmp_path / "words.txt")).names == ("wall", "sky")
    for nothing in ("", "  "):
        with pytest.raises(UserError, match=r"--others is empty; .* 'none' for no contrast words"):
            parse_others(nothing)
    with pytest.raises(UserError, match="';' names nothing"):
        parse_others(";")
