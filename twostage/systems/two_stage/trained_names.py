"""Which names a system was trained on, for ensembles that trust CLIP less on these."""

from __future__ import annotations

from detectron2.config import CfgNode

from twostage.data.views import dataset_view
from twostage.errors import UserError
from twostage.vocabulary import Vocabulary
from twostage.words import looks_like_file


def trained_names(cfg: CfgNode, given: str, key: str) -> frozenset[str]:
    """All names, synonyms apart, that count as trained: those of `given`, a dataset or a file, else of the training set.

    Args:
        key: whose value `given` is.

    Raises:
        UserError: neither is there.
    """
    source = given or next(iter(cfg.DATASETS.TRAIN), "")
    if not source:
        raise UserError(f"{key} and DATASETS.TRAIN are empty; name the set it was trained on")
    vocabulary = Vocabulary.from_file(source) if looks_like_file(source) else Vocabulary.of(dataset_view(cfg, source))
    return frozenset(name for group in vocabulary.synonyms(split=True) for name in group)
