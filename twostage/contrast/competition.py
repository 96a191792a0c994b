"""The words that compete with the words asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from twostage.clip.text import TextEmbedder
from twostage.contrast.closeness import Calibration, TextSpace
from twostage.contrast.lists import contrast_list
from twostage.errors import UserError, near_names, shown
from twostage.vocabulary import Vocabulary
from twostage.words import check_distinct

# "auto": the shipped words, but for those too close to an asked word; "few": the same where fewer than `FEW` words are
# asked for, else none. None: nothing competes. Words: these and no others, as they are.
Mode = Literal["auto", "few"]
Others = Mode | Sequence[str] | Vocabulary | None

# From this many words on a list is taken for a complete one, whose words contrast with each other.
FEW = 5
# Vocabularies whose competitors are kept.
_KEPT = 64


class Competition:
    """Chooses contrast words for the text tower of one system.

    >>> from twostage.api import load
    >>> segmenter = load("toybox/maskclip", device="cpu")
    >>> competition = Competition.of(segmenter.cfg.MODEL.CLIP.NAME, segmenter.model.text)
    >>> against = competition(Vocabulary(("blue star",)), "auto")
    >>> "grass" in against, "red star" in against, "star" in against
    (True, True, False)
    """

    def __init__(self, space: TextSpace) -> None:
        self._space = space
        self._chosen: dict[tuple[str, ...], tuple[str, ...]] = {}

    @classmethod
    def of(cls, clip_name: str, text: TextEmbedder) -> Competition:
        """For a text tower, with the words that ship for its kind.

        Args:
            clip_name: `MODEL.CLIP.NAME`.
        """
        return cls(TextSpace(text, contrast_list(clip_name)))

    @property
    def calibration(self) -> Calibration:
        """How far apart words have to be in this tower's text space."""
        return self._space.calibration

    def __call__(self, vocabulary: Vocabulary, mode: Mode) -> tuple[str, ...]:
        """The shipped words that may compete with those of `vocabulary`; none where "few" finds many."""
        if mode == "few" and len(vocabulary) >= FEW:
            return ()
        if vocabulary.names not in self._chosen:
            names = [name for group in vocabulary.synonyms(split=True) for name in group]
            close = self._space.close_words(names)
            while len(self._chosen) >= _KEPT:
                del self._chosen[next(iter(self._chosen))]
            self._chosen[vocabulary.names] = tuple(word for word in self._space.words if word not in close)
        return self._chosen[vocabulary.names]


def named_others(vocabulary: Vocabulary, others: Sequence[str] | Vocabulary) -> tuple[str, ...]:
    """Contrast words that somebody names, checked.

    Raises:
        UserError: no words, one that is none, twice the same, or one that is asked for.
    """
    words = others if isinstance(others, Vocabulary) else Vocabulary.from_words(others, source="others")
    check_distinct((*vocabulary.names, *words.names), source="vocabulary and others together")
    return words.names


def parse_others(text: str) -> Mode | Vocabulary | None:
    """A command-line value: "auto", "few", "none", or what `Vocabulary.parse` reads.

    >>> parse_others("none"), parse_others("wall, sky").names
    (None, ('wall', 'sky'))
    """
    word = text.strip().casefold()
    if word == "none":
        return None
    for mode in get_args(Mode):
        if word == mode:
            return mode
    return Vocabulary.parse(text)


def check_others(others: Others) -> None:
    """UserError where `others` is a word that says nothing."""
    if isinstance(others, str) and others not in get_args(Mode):
        raise UserError(
            f"others is {shown(others)}{near_names(others, get_args(Mode))}; give 'auto', 'few', None or a list of words"
        )
