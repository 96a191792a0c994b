"""Tar shards in webdataset's layout: one file after the other, those that are pictures are labelled."""

from __future__ import annotations

import dataclasses
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from twostage.data.images import is_picture_name
from twostage.errors import UserError
from twostage.labelling.units import Item, Unit

# What tarfile raises of damaged files, also of compressed ones.
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error)
# Shards that are looked into at the start, and members of each: a start that reads all of a large source would take hours.
_SHARDS, _MEMBERS = 3, 1000


@dataclasses.dataclass(frozen=True)
class TarShard:
    """A tar file of `size` bytes with about `count` pictures among its members; `name` is what results call it."""

    path: str
    name: str
    size: int
    count: int
    counted: bool

    @property
    def identity(self) -> str:
        """Name and size."""
        return f"{self.name} {self.size}"

    def __len__(self) -> int:
        return self.count

    def items(self) -> Iterator[Item]:
        """Members that are pictures, as bytes; for what lies behind damage, one item with the reason."""
        found = 0
        try:
            with tarfile.open(self.path) as archive:
                for member in _pictures(archive):
                    file = archive.extractfile(member)
                    assert file is not None, "a plain member has content"
                    content = file.read()
                    found += 1
                    yield Item(f"{self.name}/{member.name}", content)
        except _DAMAGE as error:
            reason = f"tar shard '{self.path}' is damaged behind {found} pictures ({error}); replace it"
            yield Item(self.name, b"", reason)


def tar_units(files: Sequence[tuple[Path, str]]) -> list[Unit]:
    """A unit per tar file, given with its name.

    How many pictures they hold is guessed from their sizes and a look into a few.

    Raises:
        UserError: the only file can't be read.
    """
    sizes = [path.stat().st_size for path, _ in files]
    looked = {at: _look(files[at][0]) for at in {0, len(files) // 2, len(files) - 1}}
    if not any(look.pictures for look in looked.values()):
        looked = {at: _look(path) for at, (path, _) in enumerate(files)}
    if len(files) == 1 and looked[0].error:
        raise UserError(f"tar shard '{files[0][0]}' can't be read ({looked[0].error}); replace or remove it")
    rate = sum(look.pictures for look in looked.values()) / max(1, sum(look.bytes for look in looked.values()))
    units: list[Unit] = []
    for at, ((path, name), size) in enumerate(zip(files, sizes, strict=True)):
        look = looked.get(at)
        if look is None or not look.whole:
            units.append(TarShard(str(path), name, size, round(rate * size), counted=False))
        else:
            # Of damage a row tells; a picture that is cut off is counted and can't be read.
            count = look.pictures + bool(look.error)
            units.append(TarShard(str(path), name, size, count, counted=not look.error))
    return units


@dataclasses.dataclass(frozen=True)
class _Look:
    """`pictures` in the first `bytes` of a shard, which are all of it where `whole`; `error` says what ended it."""

    pictures: int
    bytes: int
    whole: bool
    error: str = ""


def _look(path: Path) -> _Look:
    pictures = members = offset = 0
    try:
        with tarfile.open(path) as archive:
            for member in _members(archive):
                pictures += _is_picture(member)
                members, offset = members + 1, archive.offset
                if members == _MEMBERS:
                    return _Look(pictures, offset, whole=False)
    except _DAMAGE as error:
        return _Look(pictures, offset, whole=True, error=str(error))
    # With what fills it up behind the last member, as every shard has.
    return _Look(pictures, path.stat().st_size, whole=True)


def _pictures(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    return filter(_is_picture, _members(archive))


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members, of which the archive keeps none. Raises tarfile.ReadError where something else than the end follows."""
    while (member := archive.next()) is not None:
        yield member
        archive.members.clear()  # type: ignore[attr-defined]
    # tarfile takes a header that is none for the end.
    assert archive.fileobj is not None, "it is open"
    archive.fileobj.seek(archive.offset)
    if any(archive.fileobj.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError("a header is none")


def _is_picture(member: tarfile.TarInfo) -> bool:
    return member.isfile() and is_picture_name(Path(member.name).name)
