"""Registers the catalogue in Detectron2's catalogues, when somebody asks for a dataset by name.

Every benchmark answers to our own name (`<benchmark>_<split>`) and to those of the published repositories;
`twostage datasets` prints them. Upstream Detectron2 registers two of the names itself (`ade20k_sem_seg_{train,val}`); names
that are taken keep their function and only get the facts they lack.

What is registered is the same in every process and for every config; what a config changes is in `twostage.data.views`.
A program that uses `DatasetCatalog` directly calls `register_catalogue` first.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from twostage.data.captions import builtin_caption_sets, register_caption_set
from twostage.data.catalogue import DatasetInfo, benchmarks
from twostage.data.metadata import metadata_of
from twostage.data.toybox.splits import toybox_infos

_LOCK = threading.Lock()


def register_catalogue() -> None:
    """Register toybox, every benchmark under all its names and the caption sets; touches no file.

    Once per process: what a program then removes or replaces stays as the program wants it.
    """
    with _LOCK:
        _register_once()


@functools.cache
def _register_once() -> None:
    register([*toybox_infos(), *(info for benchmark in benchmarks().values() for info in benchmark.infos())])
    for name, load in builtin_caption_sets():
        register_caption_set(name, load)


def register(infos: Iterable[DatasetInfo]) -> None:
    """Register datasets that are not there yet; metadata that somebody else has set are left as they are."""
    for info in infos:
        if info.name not in DatasetCatalog.list():
            DatasetCatalog.register(info.name, partial(_records, info))
        metadata = MetadataCatalog.get(info.name)
        for key, value in metadata_of(info).items():
            if metadata.get(key, None) is None:
                setattr(metadata, key, value)


def _records(info: DatasetInfo) -> list[dict[str, Any]]:
    return info.records()


def foreign_records(name: str) -> Callable[[], list[dict[str, Any]]] | None:
    """What gives the records of a registered dataset, None where it is our own listing of its folders."""
    if name not in DatasetCatalog.list():
        return list  # has metadata only
    function = DatasetCatalog[name]
    return None if isinstance(function, partial) and function.func is _records else function
