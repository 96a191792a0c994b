"""Datasets that wrap lists, functions and samplers."""

from __future__ import annotations

import copy
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]

logger = logging.getLogger(__name__)


class DatasetFromList(Dataset):
    """A list as a dataset.

    By default the list is kept as one byte tensor, which worker processes share: Python objects would be copied into
    each of them as their reference counts change.
    """

    def __init__(self, lst: Sequence[Any], copy: bool = True, serialize: bool = True) -> None:
        """
        Args:
            copy: give out deep copies; only meaningful without `serialize`, which always gives out new objects.
        """
        self._copy = copy
        self._list: Sequence[Any] = lst if not serialize else _SerializedList(lst)

    def __len__(self) -> int:
        return len(self._list)

    def __getitem__(self, idx: int) -> Any:
        item = self._list[idx]
        return copy.deepcopy(item) if self._copy and not isinstance(self._list, _SerializedList) else item


class _SerializedList(Sequence):
    """Items pickled one after the other into a byte tensor; only this process's own data is ever unpickled."""

    def __init__(self, items: Sequence[Any]) -> None:
        logger.info("Serializing %d elements to byte tensors and concatenating them all ...", len(items))
        chunks = [np.frombuffer(pickle.dumps(item, protocol=-1), dtype=np.uint8) for item in items]
        self._ends = torch.from_numpy(np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64))
        self._bytes = torch.from_numpy(np.concatenate(chunks) if chunks else np.empty(0, np.uint8))
        logger.info("Serialized dataset takes %.2f MiB", len(self._bytes) / 2**20)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, idx: Any) -> Any:
        begin = 0 if idx == 0 else self._ends[idx - 1].item()
        return pickle.loads(self._bytes[begin : self._ends[idx].item()].numpy().tobytes())


class MapDataset(Dataset):
    """A dataset with a function applied to every item.

    An item for which the function returns None is replaced by another, random one.
    """

    def __new__(cls, dataset: Any, map_func: Callable[[Any], Any]) -> Any:
        return _IterableMap(dataset, map_func) if isinstance(dataset, IterableDataset) else super().__new__(cls)

    def __init__(self, dataset: Any, map_func: Callable[[Any], Any]) -> None:
        self._dataset = dataset
        self._map_func = map_func
        self._random = random.Random(42)
        self._candidates = set(range(len(dataset)))

    def __getnewargs__(self) -> tuple:
        # Unpickling calls __new__ too.
        return self._dataset, self._map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        for failures in itertools.count(1):
            mapped = self._map_func(self._dataset[idx])
            if mapped is not None:
                self._candidates.add(idx)
                return mapped
            self._candidates.discard(idx)
            if failures >= 3:
                logger.warning("The mapper gave nothing for index %d, after %d failures before", idx, failures - 1)
            idx = self._random.choice(sorted(self._candidates))
        return None


class _IterableMap(IterableDataset):
    """As `MapDataset`, for a stream: items for which the function returns None are left out."""

    def __init__(self, dataset: Iterable[Any], map_func: Callable[[Any], Any]) -> None:
        self._dataset = dataset
        self._map_func = map_func

    def __iter__(self) -> Iterator[Any]:
        return (mapped for mapped in map(self._map_func, self._dataset) if mapped is not None)


class ToIterableDataset(IterableDataset):
    """A map-style dataset as a stream in a sampler's order."""

    def __init__(
        self, dataset: Dataset, sampler: Iterable[int], shard_sampler: bool = True, shard_chunk_size: int = 1
    ) -> None:
        """
        Args:
            shard_sampler: in worker processes, take only this worker's share of the sampler's indices.
            shard_chunk_size: consecutive indices go to one worker; with the batch size, the sequence of batches
                does not depend on the number of workers.
        """
        assert not isinstance(dataset, IterableDataset), "the dataset must be a map-style one"
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        indices = iter(self.sampler)
        worker = get_worker_info() if self.shard_sampler else None
        if worker is not None and worker.num_workers > 1:
            indices = _share(indices, self.shard_chunk_size, worker.id, worker.num_workers)
        for index in indices:
            yield self.dataset[index]

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]


def _share(indices: Iterator[int], chunk: int, worker: int, workers: int) -> Iterator[int]:
    """Chunks number worker, worker + workers, ... of the stream."""
    for position, index in enumerate(indices):
        if position // chunk % workers == worker:
            yield index


class AspectRatioGroupedDataset(IterableDataset):
    """Batches of records that are all wider than high, or all not, from a stream of records."""

    def __init__(self, dataset: Iterable[dict[str, Any]], batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        buckets: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        for record in self.dataset:
            bucket = buckets[0 if record["width"] > record["height"] else 1]
            bucket.append(record)
            if len(bucket) == self.batch_size:
                yield bucket[:]
                bucket.clear()
