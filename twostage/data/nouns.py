"""The things a caption names, as candidates for what its picture's masks show (OVSeg, section 3.2; ODISE, section 3.5).

The authors take the nouns from a language parser. Ours is a chunker without a model: a caption is cut at words that are
never part of a noun phrase, and what is left between the cuts are phrases with their adjectives, as class names have them.
"""

from __future__ import annotations

import re

_ARTICLES = "a an the this that these those some any no each every another other its his her their our my your"
_PREPOSITIONS = (
    "of in on at by with without from to into onto over under above below behind beside between among through across near "
    "around along against inside outside during for as up down out off about towards toward next like via while"
)
_CONJUNCTIONS = "and or but nor so because if when where which who whom whose what how than then also very"
_VERBS = (
    "is are was were be been being am has have had do does did can could will would shall should may might must there "
    "it he she they we i you them him us me here sits sit stands stand lies lie lays lay hangs hang shows show holds hold "
    "looks look rides ride wears wear walks walk runs run plays play eats eat flies fly made taken seen parked"
)
_NUMBERS = "one two three four five six seven eight nine ten many several few lots lot couple pair group bunch"
# What prompts and captions call the picture itself.
_PICTURE = "photo picture image scene view shot close-up closeup photograph background foreground front top side back"
# Sizes say how large a thing is in the picture, not what it is.
_SIZES = "small medium large big little tiny huge"
_CUTS = frozenset(" ".join((_ARTICLES, _PREPOSITIONS, _CONJUNCTIONS, _VERBS, _NUMBERS, _PICTURE, _SIZES)).split())
# Words in -ing that name things; others are verbs ("a man riding a horse").
_THINGS = (
    "building ceiling painting railing clothing ring king string wing swing lightning evening morning awning bedding "
    "carving covering crossing drawing dressing dumpling earring flooring icing landing lining paving pudding sibling sling "
    "spring stuffing thing wiring parking wedding"
)
_THINGS_IN_ING = frozenset(_THINGS.split())


def noun_phrases(caption: str) -> list[str]:
    """Noun phrases of a caption in order, each once, in lower case.

    >>> noun_phrases("There is a small striped blue star on grass in the scene.")
    ['striped blue star', 'grass']
    >>> noun_phrases("A man riding a wave on top of a surfboard")
    ['man', 'wave', 'surfboard']
    """
    phrases: dict[str, None] = {}
    for part in re.split(r"[^\w\s'-]", caption.lower()):
        chunk: list[str] = []
        for word in [*part.split(), "a"]:
            if not _is_cut(word):
                chunk.append(word)
                continue
            if chunk:
                phrases[" ".join(chunk)] = None
            chunk = []
    return list(phrases)


def _is_cut(word: str) -> bool:
    """Whether a word ends a noun phrase."""
    if word in _CUTS or word.isdigit():
        return True
    return word.endswith("ing") and len(word) > 4 and word not in _THINGS_IN_ING
