"""Which names the model of a case was trained on."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal
from twostage.vocabulary import Vocabulary


class _Trained(Protocol):
    train_names: frozenset[str]

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Any: ...


def embed_classes(model: _Trained, case: Case) -> Any:
    """The case's classes as `model` embeds them, trained those that share a name with the case's own list, else the config's.

    What comes out as trained is our answer, never the case's: the case's is compared with it.
    """
    if (stated := case.meta.get("train_names")) is not None:
        groups = Vocabulary.published(stated).synonyms(split=True)
        model.train_names = frozenset(name for group in groups for name in group)
    return model.embed_vocabulary(Vocabulary.published(case.meta["class_names"]))


def compare_trained(case: Case, seen: Tensor) -> list[Comparison]:
    """Which classes we take for trained, bool `[n]`, against what the case's json says, if it does."""
    stated = case.meta.get("category_overlapping_mask")
    return [] if stated is None else [compare_equal("trained classes", seen.long().tolist(), stated)]
