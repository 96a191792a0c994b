"""Data loaders from configs or datasets."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from detectron2.config import CfgNode, configurable
from detectron2.data.catalog import DatasetCatalog
from detectron2.data.common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from detectron2.data.dataset_mapper import DatasetMapper
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils import comm

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "get_detection_dataset_dicts",
    "trivial_batch_collator",
    "worker_init_reset_seed",
]

logger = logging.getLogger(__name__)

Mapper = Callable[[dict[str, Any]], Any]


def trivial_batch_collator(batch: list[Any]) -> list[Any]:
    """A batch is the list of its samples."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed torch, numpy and random in a worker process, each worker differently."""
    seed = torch.initial_seed() % 2**31 + worker_id
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records that have at least one annotation which is not a crowd."""
    usable = [r for r in dataset_dicts if any(not a.get("iscrowd", 0) for a in r["annotations"])]
    logger.info(
        "Removed %d images with no usable annotations. %d images left.", len(dataset_dicts) - len(usable), len(usable)
    )
    return usable


def get_detection_dataset_dicts(names: str | Sequence[str], filter_empty: bool = True) -> Any:
    """Records of one or several registered datasets, in order.

    Args:
        filter_empty: leave out images without usable annotations, where records have annotations.

    Raises:
        AssertionError: no names, or a dataset without records.
    """
    names = [names] if isinstance(names, str) else names
    assert len(names) > 0, "no dataset given"
    datasets = [DatasetCatalog.get(name) for name in names]
    if isinstance(datasets[0], Dataset):
        return datasets[0] if len(datasets) == 1 else torch.utils.data.ConcatDataset(datasets)
    for name, records in zip(names, datasets, strict=True):
        assert len(records) > 0, f"Dataset '{name}' is empty!"
    records = list(itertools.chain.from_iterable(datasets))
    if filter_empty and "annotations" in records[0]:
        records = filter_images_with_only_crowd_annotations(records)
        assert records, f"no usable images in {', '.join(names)}"
    return records


def build_batch_data_loader(
    dataset: Any,
    sampler: Iterable[int] | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
    drop_last: bool = True,
    **kwargs: Any,
) -> Any:
    """Batches of `total_batch_size / world size` samples.

    Args:
        dataset: map-style, or a stream (then `sampler` is None).
        aspect_ratio_grouping: batches of images of the same orientation.
        collate_fn: default: batches are lists.

    Raises:
        AssertionError: the batch does not divide into equal shares.
    """
    world_size = comm.get_world_size()
    assert total_batch_size > 0 and total_batch_size % world_size == 0, (
        f"the total batch size ({total_batch_size}) must be a multiple of the number of processes ({world_size})"
    )
    batch_size = total_batch_size // world_size
    logger.info("Making batched data loader with batch_size=%d", batch_size)
    if isinstance(dataset, IterableDataset):
        assert sampler is None, "a stream has its own order"
    else:
        assert sampler is not None, "a map-style dataset needs a sampler"
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    common = {"num_workers": num_workers, "worker_init_fn": worker_init_reset_seed, **kwargs}
    if not aspect_ratio_grouping:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            collate_fn=collate_fn or trivial_batch_collator,
            **common,
        )
    assert drop_last, "batches of one orientation are always full"
    single = DataLoader(dataset, batch_size=None, collate_fn=_as_is, **common)
    grouped = AspectRatioGroupedDataset(single, batch_size)
    return grouped if collate_fn is None else MapDataset(grouped, collate_fn)


def _as_is(sample: Any) -> Any:
    return sample


def _train_loader_from_config(
    cfg: CfgNode, mapper: Mapper | None = None, *, dataset: Any = None, sampler: Iterable[int] | None = None
) -> dict[str, Any]:
    if dataset is None:
        dataset = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if sampler is None and not isinstance(dataset, IterableDataset):
        if name != "TrainingSampler":
            raise ValueError(f"Unknown training sampler: {name}; here is only 'TrainingSampler'")
        logger.info("Using training sampler %s", name)
        sampler = TrainingSampler(len(dataset), seed=cfg.SEED)
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: Any,
    *,
    mapper: Mapper | None,
    sampler: Iterable[int] | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
    **kwargs: Any,
) -> Any:
    """Endless loader of mapped samples; call it with these arguments or with a config (and mapper, dataset, sampler).

    Args:
        dataset: list of records, map-style dataset or stream.
        mapper: applied to every record; None: not.
        sampler: default: `TrainingSampler`.
        total_batch_size: of all processes together.
    """
    is_stream = isinstance(dataset, IterableDataset)
    dataset = _mapped(dataset, mapper)
    if sampler is None and not is_stream:
        sampler = TrainingSampler(len(dataset))
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _mapped(dataset: Any, mapper: Mapper | None) -> Any:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


def _test_loader_from_config(
    cfg: CfgNode, dataset_name: str | Sequence[str], mapper: Mapper | None = None
) -> dict[str, Any]:
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "sampler": None if isinstance(dataset, IterableDataset) else InferenceSampler(len(dataset)),
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: Any,
    *,
    mapper: Mapper | None,
    sampler: Sampler[int] | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
) -> DataLoader:
    """Loader of every sample once, in order, divided among processes; arguments or (config, dataset name, mapper).

    Args:
        dataset: list of records, map-style dataset or stream.
        sampler: default: `InferenceSampler`.
        batch_size: per process.
    """
    is_stream = isinstance(dataset, IterableDataset)
    dataset = _mapped(dataset, mapper)
    if sampler is None and not is_stream:
        sampler = InferenceSampler(len(dataset))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
    )
