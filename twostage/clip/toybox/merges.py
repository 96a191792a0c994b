"""The byte-pair merges of the toybox tokenizer: every word of the toybox captions becomes one token.

Anything else falls back to single letters (bytes), as in CLIP's own tokenizer when no merge applies.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from twostage.clip.templates import TEMPLATES
from twostage.data.toybox import captioned as captions
from twostage.files import atomic_path


def caption_words() -> list[str]:
    """All words of the captions and of the prompt templates, lower case, sorted."""
    texts = [*captions.NAMES, *captions.TEMPLATES, *captions.SIZED_TEMPLATES, *captions.SIZES, "and on"]
    texts += [template for group in TEMPLATES.values() for template in group]
    return sorted({word for text in texts for word in re.findall(r"[a-z]+", text.replace("{size}", "").lower())})


def merges_for(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merges, in order of their rank, that make each of `words` one token.

    A word starts from what the merges so far make of it and gets the merges that join the rest, left to right. New
    merges rank last, so that they never change how an earlier word is joined.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = _apply(ranks, [*word[:-1], f"{word[-1]}</w>"])
        while len(pieces) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces = _apply(ranks, pieces)
    return list(ranks)


def _apply(ranks: dict[tuple[str, str], int], pieces: list[str]) -> list[str]:
    """Byte-pair encoding: join the pair of the lowest rank, again and again."""
    while True:
        pairs = [pair for pair in pairwise(pieces) if pair in ranks]
        if not pairs:
            return pieces
        best = min(pairs, key=ranks.__getitem__)
        joined: list[str] = []
        for piece in pieces:
            if joined and (joined[-1], piece) == best:
                joined[-1] += piece
            else:
                joined.append(piece)
        pieces = joined


def write_merges(path: Path) -> int:
    """Write the merges file (same words, same bytes); returns the size of the tokenizer's vocabulary."""
    merges = merges_for(caption_words())
    text = "\n".join(["#version: toybox", *(" ".join(merge) for merge in merges)])
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))
    # 256 bytes, the same as word ends, the merges, start and end of text.
    return 512 + len(merges) + 2
