"""The words that compete with the words asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal, get_args

from twostage.clip.text import TextEmbedder
from twostage.contrast.closeness import TextSpace
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


class OthersChoice:
    """Chooses contrast words for the text tower of one system; nothing is embedded before the shipped words are needed.

    >>> from twostage.api import load
    >>> segmenter = load("toybox/maskclip", device="cpu")
    >>> choice = OthersChoice(segmenter.cfg.MODEL.CLIP.NAME, segmenter.model.text)
    >>> against = choice(Vocabulary(("blue star",)), "auto")
    >>> "grass" in against, "star" in against
    (True, False)
    """

    def __init__(self, clip_name: str, text: TextEmbedder | None) -> None:
        """
        Args:
            clip_name: `MODEL.CLIP.NAME`, which says which words are shipped for it.
            text: of the system; None for one whose classes are not words.
        """
        self._clip_name = clip_name
        self._text = text
        self._space: TextSpace | None = None
        self._chosen: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def __call__(self, vocabulary: Vocabulary, others: Others) -> tuple[str, ...]:
        """The words that compete with those of `vocabulary`; none for None, or where "few" finds many.

        Raises:
            UserError: as `named_others`, and for contrast words, other than "few", for a system whose classes are not words.
        """
        if others is None or (others == "few" and (len(vocabulary) >= FEW or self._text is None)):
            return ()
        if isinstance(others, str) and others not in get_args(Mode):
            raise UserError(
                f"others is {shown(others)}{near_names(others, get_args(Mode))}; give 'auto', 'few', None or a list of words"
            )
        if self._text is None:
            raise UserError(
                "this system's classes are not words, so that no words can compete with them; use others=None"
            )
        return self._shipped(vocabulary) if isinstance(others, str) else named_others(vocabulary, others)

    @property
    def space(self) -> TextSpace:
        """The tower's text space with the shipped words."""
        with self._lock:
            if self._space is None:
                assert self._text is not None, "a system whose classes are not words has no text space"
                self._space = TextSpace(self._text, contrast_list(self._clip_name), self._clip_name)
            return self._space

    def _shipped(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """The shipped words that are not too close to an asked one; kept for the last `_KEPT` vocabularies."""
        space = self.space
        with self._lock:
            chosen = self._chosen.pop(vocabulary.names, None)
            if chosen is None:
                close = space.close_words([name for group in vocabulary.synonyms(split=True) for name in group])
                chosen = tuple(word for word in space.words if word not in close)
            while len(self._chosen) >= _KEPT:
                del self._chosen[next(iter(self._chosen))]
            self._chosen[vocabulary.names] = chosen
            return chosen


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

    Raises:
        UserError: it is empty, or as `Vocabulary.parse`.

    >>> parse_others("none"), parse_others("wall, sky").names
    (None, ('wall', 'sky'))
    """
    word = text.strip().casefold()
    if not word:
        raise UserError("--others is empty; give words, 'few' or 'auto', or 'none' for no contrast words")
    if word == "none":
        return None
    for mode in get_args(Mode):
        if word == mode:
            return mode
    return Vocabulary.parse(text)
