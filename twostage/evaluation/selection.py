"""Which data sets a list of words means."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog

from twostage.data.catalogue import Benchmark, benchmarks, find_benchmark
from twostage.errors import UserError

# What nearly every paper on open-vocabulary segmentation reports.
FIVE = ("A-847", "PC-459", "A-150", "PC-59", "PAS-20")


def select_datasets(words: Sequence[str]) -> list[str]:
    """Registered names, in order and each once.

    Args:
        words: registered names, benchmarks as the papers call them ("A-150": its validation set), "five" (`FIVE`) or "all"
            (the validation set of every benchmark of the catalogue).

    Raises:
        UserError: a word that is none of these, with near ones, or no word.
    """
    names: dict[str, None] = {}
    for word in words:
        names.update(dict.fromkeys(_names_of(word)))
    if not names:
        raise UserError("no data set to evaluate on; give names, 'five' or 'all'")
    return list(names)


def _names_of(word: str) -> list[str]:
    if word == "five":
        return [_validation_set(find_benchmark(name)) for name in FIVE]
    if word == "all":
        return [_validation_set(b) for b in benchmarks().values() if "val" in b.splits and b.subset_of is None]
    if word in DatasetCatalog.list():
        return [word]
    return [_validation_set(find_benchmark(word))]


def _validation_set(benchmark: Benchmark) -> str:
    """Our own name of it."""
    if "val" not in benchmark.splits:
        raise UserError(f"benchmark '{benchmark.name}' has no validation set; name one of its other sets")
    return next(iter(benchmark.splits["val"].registered))


def published_name(dataset_name: str) -> str:
    """What papers call a registered data set, "" where they do not know it."""
    info = MetadataCatalog.get(dataset_name).get("info", None)
    return info.published[0] if info is not None and info.published and info.split == "val" else ""
