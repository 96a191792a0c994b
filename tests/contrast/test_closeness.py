"""Which contrast words are too close: by their letters, and by a text space whose vectors are known."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from twostage.contrast.closeness import TextSpace, best_threshold, shares_words
from twostage.contrast.lists import ContrastList, contrast_list

# Two directions of meaning beside a large part that all prompts share.
VECTORS = {
    "cat": [9.0, 1.0, 0.0, 0.0],
    "dog": [9.0, 0.6, 0.8, 0.0],
    "sky": [9.0, -1.0, 0.0, 0.2],
    "sea": [9.0, -0.6, -0.8, 0.0],
    "kitten": [9.0, 0.98, 0.1, 0.0],
    "ocean": [9.0, -0.62, -0.76, 0.0],
    "kitty": [9.0, 0.99, 0.05, 0.0],
}
WORDS = ContrastList(
    groups={"animals": ("cat", "dog"), "views": ("sky", "sea")}, related=(("kitten", "cat"), ("ocean", "sea"))
)


class KnownText:
    """A text tower that knows a vector for each name; with `templates`, one per template, of which it is the mean."""

    def __init__(self, templates: int = 0) -> None:
        self.templates = templates
        self.embedded: list[str] = []

    def embed_names(self, names):
        self.embedded += names
        rows = F.normalize(torch.tensor([VECTORS[name] for name in names]), dim=-1)
        return rows if not self.templates else rows[:, None].expand(-1, self.templates, -1)


@pytest.mark.parametrize("templates", [0, 3])
def test_synonyms_are_told_from_siblings(templates):
    space = TextSpace(KnownText(templates), WORDS)
    assert space.calibration.related == 1 and space.calibration.siblings == 0
    assert space.close_words(["kitten"]) == {"cat"} == space.close_words(["kitty"])
    assert space.close_words(["kitten", "ocean"]) == {"cat", "sea"}
    assert space.close_words(["dog"]) == {"dog"}


def test_the_shared_part_is_taken_away():
    """All cosines are above 0.95; without the mean, what is left points apart."""
    text = KnownText()
    rows = text.embed_names(list(VECTORS))
    assert (rows @ rows.T).min() > 0.95
    assert float(TextSpace(text, WORDS).closeness(["kitten"])[0, 2]) < -0.9


def test_a_measured_threshold_goes_before_the_pairs():
    words = ContrastList(groups=WORDS.groups, related=WORDS.related, thresholds={"known": math.inf, "other": -1.0})
    assert TextSpace(KnownText(), words, "known").close_words(["kitten"]) == frozenset()
    assert TextSpace(KnownText(), words, "known").close_words(["cat"]) == {"cat"}
    assert TextSpace(KnownText(), words, "other").close_words(["kitten"]) == set(words.words)
    assert TextSpace(KnownText(), words).close_words(["kitten"]) == {"cat"}


def test_best_threshold_is_the_best_of_all():
    generator = torch.Generator().manual_seed(0)
    related, siblings = torch.rand(40, generator=generator), torch.rand(70, generator=generator) - 0.3
    found = best_threshold(related, siblings)

    def gain(threshold):
        return float((related >= threshold).float().mean() - (siblings >= threshold).float().mean())

    assert gain(found.threshold) == pytest.approx(max(gain(t) for t in torch.linspace(-1, 1, 4001)), abs=1e-6)
    assert gain(found.threshold) == pytest.approx(found.related - found.siblings, abs=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("glass", "wine glasses", True),
        ("Bench", "benches", True),
        ("striped blue star", "blue star", True),
        ("blue star", "red star", False),
        ("car", "carpet", False),
        ("bus", "bush", False),
        ("glass", "grass", False),
        ("!", "grass", False),
    ],
)
def test_shared_words(one, other, shared):
    assert shares_words(one, other) == shares_words(other, one) == shared


@pytest.mark.parametrize("clip_name", ["ViT-B-16", "convnext_large_d_320", "toybox-vit"])
def test_shipped_lists_are_in_order(clip_name):
    words = contrast_list(clip_name)
    assert len(set(words.words)) == len(words.words) > 150
    for asked, listed in words.related:
        assert listed in words.words and not shares_words(asked, listed)
    assert len(set(words.related)) == len(words.related)
    assert words.related or clip_name in words.thresholds
