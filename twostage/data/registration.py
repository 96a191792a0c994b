"""Registers the catalogue in Detectron2's catalogues (imported by `twostage.data`), and what a config adds to it.

Every benchmark answers to our own name (`<benchmark>_<split>`) and to those of the published repositories; `python
tools/prepare_datasets.py list` prints them. Upstream Detectron2 registers two of the names itself
(`ade20k_sem_seg_{train,val}`); names that are taken keep their function and only get the facts they lack.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from twostage.data.captions import register_builtin
from twostage.data.catalogue import DatasetInfo, benchmarks, dataset_info
from twostage.data.catalogue.folders import folder_infos
from twostage.data.distractors import read_distractors, with_distractors, without_distractors
from twostage.data.toybox.splits import toybox_infos
from twostage.errors import UserError

# What follows from DATASETS.CLASS_NAMES and DATASETS.DISTRACTORS.
_NAME_KEYS = ("info", "stuff_classes", "prompt_classes", "prompt_to_class", "labelled_classes")


def register_catalogue() -> None:
    """Register toybox and every benchmark under all its names, where nobody has yet. Touches no file."""
    register([*toybox_infos(), *(info for benchmark in benchmarks().values() for info in benchmark.infos())])


def register(infos: Iterable[DatasetInfo]) -> None:
    """Register datasets that are not there yet; metadata that somebody else has set are left as they are."""
    for info in infos:
        if info.name not in DatasetCatalog.list():
            DatasetCatalog.register(info.name, partial(records_of, info.name))
        metadata = MetadataCatalog.get(info.name)
        for key, value in info.metadata().items():
            if metadata.get(key, None) is None:
                setattr(metadata, key, value)


def records_of(name: str) -> list[dict[str, Any]]:
    """The records of a registered dataset, listed anew."""
    return dataset_info(name).records()


def configure_datasets(cfg: CfgNode) -> None:
    """Register `DATASETS.FOLDERS`, give the sets of `DATASETS.TRAIN` and `TEST` the names of `DATASETS.CLASS_NAMES`, and
    those of `TEST` the `DATASETS.DISTRACTORS`.

    May be called again, with another config; every process has to call it.

    Raises:
        UserError: a folder that is no dataset, class names that a benchmark does not have, distractors that can't be read.
    """
    for info in folder_infos(cfg.DATASETS.FOLDERS):
        if info.name in DatasetCatalog.list():
            _check_same_folder(info)
            DatasetCatalog.remove(info.name)
            MetadataCatalog.remove(info.name)
        register([info])
    extra = read_distractors(cfg.DATASETS.DISTRACTORS) if cfg.DATASETS.DISTRACTORS else ()
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if MetadataCatalog.get(name).get("info", None) is not None:
            use_class_names(name, cfg.DATASETS.CLASS_NAMES)
            if extra and name in cfg.DATASETS.TEST:
                _set_names(name, with_distractors(dataset_info(name), extra))


def _check_same_folder(info: DatasetInfo) -> None:
    known = MetadataCatalog.get(info.name).get("info", None)
    if known is None or known.benchmark != info.benchmark:
        raise UserError(
            f"DATASETS.FOLDERS: '{info.images[0]}' would be called '{info.name}', which is taken by another dataset; "
            f"give it a name, like 'my_name={info.benchmark}'"
        )


def use_class_names(name: str, system: str) -> None:
    """Ask for the class names of a published system on the registered dataset `name` ("auto": those of who uses `name`).

    Names in tables stay as they are. Datasets with one class list (toybox, folders) keep it. Distractors go.

    Raises:
        UserError: the benchmark has no such variant.
    """
    info = without_distractors(dataset_info(name))
    benchmark = benchmarks().get(info.benchmark)
    if benchmark is not None:
        chosen = system
        if system == "auto":
            registered = benchmark.splits[info.split].registered
            chosen = registered.get(name, next(iter(registered.values())))
        info = benchmark.with_names(info, chosen)
    if info != dataset_info(name):
        _set_names(name, info)


def _set_names(name: str, info: DatasetInfo) -> None:
    metadata = MetadataCatalog.get(name)
    for key in _NAME_KEYS:  # Detectron2's metadata can be set once only, hence out first
        vars(metadata).pop(key, None)
    fresh = info.metadata()
    metadata.set(**{key: fresh[key] for key in _NAME_KEYS if key in fresh})


register_catalogue()
register_builtin()
