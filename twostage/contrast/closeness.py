"""Which contrast words are too close to an asked word to compete with it: synonyms, kinds and parts.

Two signs, either of which is enough:

- The words themselves: one has all words of the other ("wine glass" and "glass", "striped blue star" and "blue star").
- CLIP's own text space. All prompts share a large part there ("a photo of a"), so the mean over the shipped words is taken
  away first; the cosine of what is left is the closeness.

From which closeness on two words are too close differs from tower to tower and is measured in the tower's own space, on
pairs that ship with the words (`ContrastList`): the threshold is the closeness that tells related pairs (known synonyms,
kinds and parts) best from siblings (two words of one group, such as "cat" and "dog", which should compete): at which the
share of related pairs that are at least as close, less the same share of siblings, is largest (Youden's J). For the toybox
towers, which can be run on pictures here, it was measured there instead.

Legend: A asked names, W contrast words, D embedding size.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.text import TextEmbedder
from twostage.contrast.lists import ContrastList


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the shipped pairs say of a tower's text space.

    Attributes:
        threshold: closeness from which on two words are too close.
        related: share of the related pairs that are at least as close; None where the threshold was not measured on pairs.
        siblings: share of the siblings that are, likewise.
    """

    threshold: float
    related: float | None = None
    siblings: float | None = None


class TextSpace:
    """Closeness of words in the text space of one tower.

    Embeds the list and its pairs once (through the embedder's caches) and keeps `W` unit vectors.
    """

    def __init__(self, text: TextEmbedder, words: ContrastList, clip_name: str = "") -> None:
        """
        Args:
            text: of the system; one row per name, or one per template, whose mean is taken.
            words: the list of its tower.
            clip_name: `MODEL.CLIP.NAME`, for a threshold that the list knows.
        """
        self._text = text
        self.words = words.words
        rows = self._rows(self.words)
        self._mean = rows.mean(dim=0)
        self._vectors = F.normalize(rows - self._mean, dim=-1)
        known = words.thresholds.get(clip_name)
        self.calibration = self._calibrate(words) if known is None else Calibration(threshold=known)

    def closeness(self, names: Sequence[str]) -> Tensor:
        """Of each of the names to each word of the list, `[A, W]` in -1..1."""
        return F.normalize(self._rows(names) - self._mean, dim=-1) @ self._vectors.T

    def close_words(self, names: Sequence[str]) -> frozenset[str]:
        """The words of the list that are a synonym, kind or part of one of the names."""
        near = (self.closeness(names) >= self.calibration.threshold).any(dim=0).tolist()
        return frozenset(
            word
            for word, is_near in zip(self.words, near, strict=True)
            if is_near or any(shares_words(name, word) for name in names)
        )

    def _rows(self, names: Sequence[str]) -> Tensor:
        with torch.inference_mode():
            rows = self._text.embed_names(names)
            return F.normalize(rows.mean(dim=1) if rows.ndim == 3 else rows, dim=-1)

    def _calibrate(self, words: ContrastList) -> Calibration:
        place = {word: index for index, word in enumerate(self.words)}
        close = self.closeness([name for name, _ in words.related])
        related = close[range(len(close)), [place[word] for _, word in words.related]]
        pairs = [pair for group in words.groups.values() for pair in combinations(group, 2) if not shares_words(*pair)]
        first, second = ([place[pair[side]] for pair in pairs] for side in (0, 1))
        siblings = (self._vectors[first] * self._vectors[second]).sum(dim=1)
        return best_threshold(related, siblings)


def best_threshold(related: Tensor, siblings: Tensor) -> Calibration:
    """The closeness that tells `related` `[N]` best from `siblings` `[M]`; of equals the highest.

    >>> best_threshold(torch.tensor([0.5, 0.75, 1.0]), torch.tensor([0.0, 0.25, 0.625])).threshold
    0.75
    """
    candidates = related.sort(descending=True).values
    found, mistaken = ((values >= candidates[:, None]).float().mean(dim=1) for values in (related, siblings))
    best = int((found - mistaken).argmax())
    return Calibration(threshold=float(candidates[best]), related=float(found[best]), siblings=float(mistaken[best]))


def shares_words(one: str, other: str) -> bool:
    """Whether all words of one name are in the other, in singular or plural.

    >>> shares_words("wine glass", "Glasses"), shares_words("street lamp", "street sign")
    (True, False)
    """
    first, second = (re.findall(r"\w+", name.casefold()) for name in (one, other))
    shorter, longer = sorted((first, second), key=len)
    return bool(shorter) and all(any(_same(word, found) for found in longer) for word in shorter)


def _same(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return longer in (shorter, f"{shorter}s", f"{shorter}es")
