"""Datasets by name, and as a config sees them: values, nothing is changed for anybody else.

A config adds folders of one's own (`DATASETS.FOLDERS`), asks for the class names of a published system
(`DATASETS.CLASS_NAMES`, `DATASETS.AUTO_NAMES`) and gives test sets names that compete (`DATASETS.DISTRACTORS`).

>>> info = dataset_info("context_59_test_sem_seg")
>>> info.benchmark, info.split, info.num_classes, info.ignore_label
('pascal_context_59', 'val', 59, 255)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from twostage.data.catalogue import Benchmark, DatasetInfo, benchmarks
from twostage.data.catalogue.folders import folder_infos, seen_only
from twostage.data.distractors import read_distractors, with_distractors
from twostage.data.metadata import info_of
from twostage.data.registration import foreign_records, register_catalogue
from twostage.errors import UserError, near_names


def registered_names() -> list[str]:
    """All names in Detectron2's catalogue, ours among them."""
    register_catalogue()
    return DatasetCatalog.list()


def find_info(name: str) -> DatasetInfo | None:
    """The facts of a registered dataset, None where nobody has registered the name.

    Raises:
        UserError: metadata of other code that contradict each other.
    """
    if name not in registered_names() and not _has_classes(name):
        return None
    metadata = MetadataCatalog.get(name)
    info, load = metadata.get("info", None), foreign_records(name)
    if info is None:
        return info_of(metadata, load or list)
    return info if load is None else dataclasses.replace(info, load=load)


def _has_classes(name: str) -> bool:
    """Whether a program has given metadata alone."""
    return name in MetadataCatalog.list() and bool(MetadataCatalog.get(name).get("stuff_classes", None))


def dataset_info(name: str) -> DatasetInfo:
    """The facts of a registered dataset, by any of its registered names.

    Raises:
        UserError: nobody has registered the name; says near ones.
    """
    return _known(find_info(name), name, ())


def dataset_view(cfg: CfgNode, name: str) -> DatasetInfo:
    """A dataset as training sees it: a folder of `DATASETS.FOLDERS`, or a registered one, where it is among
    `DATASETS.TRAIN` or `TEST` with the names of `DATASETS.CLASS_NAMES`.

    Raises:
        UserError: unknown name, a folder that is no dataset, class names that a benchmark does not have.
    """
    configured = name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    return named_view(cfg, name, cfg.DATASETS.CLASS_NAMES) if configured else _own_or_registered(cfg, name)


def named_view(cfg: CfgNode, name: str, system: str) -> DatasetInfo:
    """A dataset with the class names of the published `system` ("auto": see `with_class_names`), whatever
    `DATASETS.CLASS_NAMES` is.

    Raises:
        UserError: see `dataset_view`.
    """
    return with_class_names(_own_or_registered(cfg, name), system, own=cfg.DATASETS.AUTO_NAMES)


def _own_or_registered(cfg: CfgNode, name: str) -> DatasetInfo:
    own = own_folders(cfg)
    return _known(own.get(name) or find_info(name), name, own)


def evaluated_view(cfg: CfgNode, name: str) -> DatasetInfo:
    """A dataset as evaluation sees it: `dataset_view`, a set of `DATASETS.TEST` with `DATASETS.DISTRACTORS`.

    Raises:
        UserError: see `dataset_view`; or distractors that can't be read, or a set that is for training alone.
    """
    info = dataset_view(cfg, name)
    if info.label_table is not None:
        raise UserError(
            f"dataset '{name}' is for training; evaluate on '{name.removesuffix('_seen')}', which reports seen and unseen "
            "classes apart"
        )
    if not cfg.DATASETS.DISTRACTORS or name not in cfg.DATASETS.TEST:
        return info
    return with_distractors(info, read_distractors(cfg.DATASETS.DISTRACTORS))


def own_folders(cfg: CfgNode) -> dict[str, DatasetInfo]:
    """The datasets of `DATASETS.FOLDERS` by name; of those with unseen classes also the part to train on (`seen_only`).

    Raises:
        UserError: a folder that is no dataset, or whose name is taken.
    """
    infos = folder_infos(cfg.DATASETS.FOLDERS)
    own = {info.name: info for info in [*(seen_only(info) for info in infos if info.unseen), *infos]}
    for name, info in own.items():
        if name in registered_names():
            raise UserError(
                f"DATASETS.FOLDERS: '{info.images[0]}' would be called '{name}', which is taken by another dataset; "
                f"give it a name, like 'my_name={info.benchmark}'"
            )
    return own


def with_class_names(info: DatasetInfo, system: str, *, own: str = "") -> DatasetInfo:
    """`info` with the class names of a published system ("auto": those of who uses its registered name).

    Names in tables stay as they are. Datasets with one class list (toybox, folders, those of other code) keep it.

    Args:
        own: whose names "auto" takes where the registered name is ours and that system has some.

    Raises:
        UserError: the benchmark has no such variant.
    """
    benchmark = benchmarks().get(info.benchmark)
    if benchmark is None:
        return info
    if system == "auto":
        split = benchmark.splits[info.split]
        first = next(iter(split.registered))
        ours = info.name in (first, split.zero_shot)
        system = (
            own if ours and _has_names(benchmark, own) else split.registered.get(info.name, split.registered[first])
        )
    return benchmark.with_names(info, system)


def _has_names(benchmark: Benchmark, system: str) -> bool:
    """Whether the published `system` has class names of its own for `benchmark`. Raises UserError: it has none for any."""
    if system and not any(known.classes.knows(system) for known in benchmarks().values()):
        raise UserError(
            f"DATASETS.AUTO_NAMES is '{system}', of which no benchmark has class names; `twostage datasets` shows whose"
        )
    return benchmark.classes.knows(system)


def _known(info: DatasetInfo | None, name: str, own: Iterable[str]) -> DatasetInfo:
    if info is None:
        near = near_names(name, [*registered_names(), *own])
        raise UserError(
            f"dataset '{name}' is not known{near}; `twostage datasets` shows the names, and "
            "DATASETS.FOLDERS adds a folder of your own"
        )
    return info
