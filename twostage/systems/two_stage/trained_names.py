"""Which names a system was trained on, for ensembles that trust CLIP less on these."""

from __future__ import annotations

from detectron2.config import CfgNode

from twostage.data.views import named_view
from twostage.errors import UserError
from twostage.vocabulary import Vocabulary
from twostage.words import looks_like_file


def trained_names(cfg: CfgNode, given: str, key: str) -> frozenset[str]:
    """All names, synonyms apart, that count as trained: those of `given`, else of the training set.

    What weights have learnt does not depend on how test sets are asked for, so `DATASETS.CLASS_NAMES` is not looked at.

    Args:
        given: a dataset by name, as "odise:NAME" with the class names of a published system; or a file; or "".
        key: whose value `given` is.

    Raises:
        UserError: neither is there, or no such dataset, file or class names.
    """
    source = given or next(iter(cfg.DATASETS.TRAIN), "")
    if not source:
        raise UserError(f"{key} and DATASETS.TRAIN are empty; name the set it was trained on")
    if looks_like_file(source):
        vocabulary = Vocabulary.from_file(source)
    else:
        system, _, name = source.rpartition(":")
        vocabulary = Vocabulary.of(named_view(cfg, name, system or "auto"))
    return frozenset(name for group in vocabulary.synonyms(split=True) for name in group)
