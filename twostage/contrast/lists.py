"""The shipped contrast words of each kind of text tower."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

from twostage.clip.loading import TOYBOX_PREFIX


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastList:
    """Words for what a picture may show, and what calibrates closeness among them.

    Attributes:
        groups: a name of the group -> its words. Words of one group are alike and yet different things (but for few).
        related: pairs (a word that may be asked for, a word of the list) of which one is a synonym, a kind or a part of the
            other without having its words; the first need not be in the list. None where no such pairs are.
        thresholds: name of a CLIP -> closeness from which on two words are too close, where that was measured on pictures;
            for towers that are not named it is measured on the pairs.
    """

    groups: Mapping[str, tuple[str, ...]]
    related: tuple[tuple[str, str], ...] = ()
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        """All words, group by group."""
        return tuple(word for words in self.groups.values() for word in words)


@functools.cache
def contrast_list(clip_name: str) -> ContrastList:
    """The list for the text tower of a CLIP, by its name (`MODEL.CLIP.NAME`).

    The tiny toybox CLIPs know no words but those of their world and have a list of their own; every other tower was taught
    on captions of photographs and shares one.
    """
    if clip_name.startswith(TOYBOX_PREFIX):
        from twostage.contrast.toybox import TOYBOX

        return TOYBOX
    from twostage.contrast.natural import NATURAL

    return NATURAL
