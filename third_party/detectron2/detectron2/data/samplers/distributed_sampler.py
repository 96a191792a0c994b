"""Samplers that divide their indices among the processes of a run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from detectron2.utils import comm


class TrainingSampler(Sampler[int]):
    """An endless stream of shuffled epochs, the same on all processes, of which each takes every world-size-th index."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        """
        Args:
            size: of the dataset.
            seed: of the whole stream, the same on all processes; None: one that they agree on.
        """
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler(size=) expects an int, got {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"TrainingSampler(size=) expects a positive int, got {size}")
        self._size = size
        self._shuffle = shuffle
        self._seed = comm.shared_random_seed() if seed is None else int(seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._stream(), self._rank, None, self._world_size)

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            epoch = torch.randperm(self._size, generator=generator) if self._shuffle else torch.arange(self._size)
            yield from epoch.tolist()


class InferenceSampler(Sampler[int]):
    """Every index once, in order: each process takes one contiguous part, the first ones at most one index more."""

    def __init__(self, size: int) -> None:
        assert size > 0, f"InferenceSampler needs a positive size, got {size}"
        share, extra = divmod(size, comm.get_world_size())
        rank = comm.get_rank()
        begin = rank * share + min(rank, extra)
        self._indices = range(begin, begin + share + (rank < extra))

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)
