"""Which datasets a list of words means."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from twostage.data.catalogue import Benchmark, benchmarks, find_benchmark
from twostage.data.views import find_info, registered_names
from twostage.errors import UserError

# What nearly every paper on open-vocabulary segmentation reports.
FIVE = ("A-847", "PC-459", "A-150", "PC-59", "PAS-20")


def select_datasets(words: Sequence[str], *, own: Collection[str] = ()) -> list[str]:
    """Names of datasets, in order and each once.

    Args:
        own: names of the config's own folders.
        words: names of datasets, benchmarks as the papers call them ("A-150": its validation set), "five" (`FIVE`) or "all"
            (the validation set of every benchmark of the catalogue).

    Raises:
        UserError: a word that is none of these, with near ones, or no word.
    """
    names: dict[str, None] = {}
    for word in words:
        names.update(dict.fromkeys(_names_of(word, own)))
    if not names:
        raise UserError("no dataset to evaluate on; give names, 'five' or 'all'")
    return list(names)


def _names_of(word: str, own: Collection[str]) -> list[str]:
    if word == "five":
        return [_validation_set(find_benchmark(name)) for name in FIVE]
    if word == "eight":
        raise UserError("'eight' has settings of its own for each test set; it stands alone behind --datasets")
    if word == "all":
        return [_validation_set(b) for b in benchmarks().values() if "val" in b.splits and b.subset_of is None]
    if word in own or word in registered_names():
        return [word]
    return [_validation_set(find_benchmark(word))]


def _validation_set(benchmark: Benchmark) -> str:
    """Our own name of it."""
    if "val" not in benchmark.splits:
        raise UserError(f"benchmark '{benchmark.name}' has no validation set; name one of its other sets")
    return next(iter(benchmark.splits["val"].registered))


def published_name(dataset_name: str) -> str:
    """What papers call a registered dataset, "" where they do not know it."""
    info = find_info(dataset_name)
    return info.published[0] if info is not None and info.published and info.split == "val" else ""
