"""Maps of all classes, block by block: held where that takes little memory, else made again by whoever reads them.

With thousands of classes the maps of one stage alone fill a machine's memory; made again they cost time instead.

Legend: B images, T classes (t of a block), C channels, h x w grid.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

# Maps of all classes that take more bytes than this are not held: SED's finest at 768 px reach it with 910 classes.
HELD_BYTES = 2**30


class ClassBlocks(abc.ABC):
    """Blocks `[B, t, ...]` of all classes, in their order."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many blocks there are."""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Tensor]:
        """The blocks, to be read again."""

    @abc.abstractmethod
    def taken(self) -> Iterator[Tensor]:
        """The blocks for the last time: nothing of one is held any more once the next is asked for."""


class HeldBlocks(ClassBlocks):
    """Blocks that are in memory."""

    def __init__(self, blocks: Iterable[Tensor]) -> None:
        self._blocks = deque(blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._blocks)

    def taken(self) -> Iterator[Tensor]:
        while self._blocks:
            yield self._blocks.popleft()


class MadeBlocks(ClassBlocks):
    """Blocks that each reader makes from those of `source`, by `make(block, position)`."""

    def __init__(self, source: ClassBlocks, make: Callable[[Tensor, int], Tensor]) -> None:
        self._source = source
        self._make = make

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Tensor]:
        return self._made(self._source)

    def taken(self) -> Iterator[Tensor]:
        return self._made(self._source.taken())

    def _made(self, source: Iterable[Tensor]) -> Iterator[Tensor]:
        return (self._make(block, position) for position, block in enumerate(source))


class ChosenBlocks(ClassBlocks):
    """Some classes of `source` `[1, t, ...]`, in blocks of `size` again."""

    def __init__(self, source: ClassBlocks, classes: Tensor, size: int) -> None:
        """
        Args:
            classes: indices, ascending int64 `[K]`, at least one.
        """
        self._source = source
        self._classes = classes
        self._size = size

    def __len__(self) -> int:
        return -(-len(self._classes) // self._size)

    def __iter__(self) -> Iterator[Tensor]:
        return self._chosen(self._source)

    def taken(self) -> Iterator[Tensor]:
        return self._chosen(self._source.taken())

    def _chosen(self, source: Iterable[Tensor]) -> Iterator[Tensor]:
        first, left = 0, None
        for block in source:
            inside = self._classes[(self._classes >= first) & (self._classes < first + block.shape[1])]
            mine = block[:, inside - first]
            left = mine if left is None else torch.cat([left, mine], dim=1)
            first += block.shape[1]
            while left.shape[1] > self._size:
                # A copy, since a part would hold the whole.
                yield left[:, : self._size].clone()
                left = left[:, self._size :]
        if left is not None and left.shape[1]:
            yield left


def fits(values: int) -> bool:
    """Whether so many float32 numbers may be held."""
    return 4 * values <= HELD_BYTES


def held(blocks: ClassBlocks, *, values: int) -> ClassBlocks:
    """`blocks`, which nobody else reads any more, in memory where their `values` numbers fit."""
    return HeldBlocks(blocks.taken()) if fits(values) else blocks
