"""Parts of a source, each labelled and written as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol


class Item(NamedTuple):
    """A picture: its name in the results, and a file's path or its bytes; `reason` where there are no bytes to be had."""

    name: str
    picture: str | bytes
    reason: str = ""


class Unit(Protocol):
    """A part of a source; picklable.

    Attributes:
        identity: by what it is known again: its name and as much as tells it from another of that name without reading it.
        counted: whether `len` is exact; of a tar shard it may be a guess from its size.
    """

    @property
    def identity(self) -> str: ...

    @property
    def counted(self) -> bool: ...

    def __len__(self) -> int:
        """Pictures."""

    def items(self) -> Iterator[Item]:
        """The pictures in their order. What can't be read is an item with a reason."""


@dataclasses.dataclass(frozen=True)
class Files:
    """Files by path below a folder; `names` are what results call them."""

    folder: str
    names: tuple[str, ...]
    counted: bool = True

    @property
    def identity(self) -> str:
        """The names."""
        return "\n".join(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def items(self) -> Iterator[Item]:
        """Paths, read by whoever labels them."""
        return (Item(name, str(Path(self.folder, name))) for name in self.names)


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A file of which nothing can be read, `reason` says why: one item."""

    name: str
    reason: str
    counted: bool = True

    @property
    def identity(self) -> str:
        """The name."""
        return self.name

    def __len__(self) -> int:
        return 1

    def items(self) -> Iterator[Item]:
        """The reason."""
        yield Item(self.name, b"", self.reason)
