"""Where the pictures of `twostage label` come from, cut into units that are labelled and written as a whole.

| source                            | its units                                      | a picture's name              |
|-----------------------------------|------------------------------------------------|-------------------------------|
| folder, or a list of files (.txt) | so many files one after the other              | its path, as below    |
| tar shards (webdataset's layout)  | one per tar file                               | `shard.tar/member`            |
| parquet with bytes of pictures    | one per row group                              | `file.parquet/row` or its column |

Units depend on the source alone, never on how many processes share them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from twostage.data.images import is_picture_name, list_images
from twostage.errors import UserError
from twostage.machine import user_path
from twostage.words import read_text

# Columns that may hold a picture's bytes; Hugging Face's image columns are structs of bytes and path.
_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "content")


class Item(NamedTuple):
    """A picture: its name in the results, and a file's path or its bytes; `reason` where there are no bytes to be had."""

    name: str
    picture: str | bytes
    reason: str = ""


class Unit(Protocol):
    """A part of a source; picklable."""

    def __len__(self) -> int: ...

    def items(self) -> Iterator[Item]:
        """The pictures in their order."""


@dataclasses.dataclass(frozen=True)
class Files:
    """Files by path; `names` are what results call them."""

    names: tuple[str, ...]
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def items(self) -> Iterator[Item]:
        """Paths, read by whoever labels them."""
        return (Item(name, path) for name, path in zip(self.names, self.paths, strict=True))


@dataclasses.dataclass(frozen=True)
class TarShard:
    """A tar file; `count` pictures among its members."""

    path: str
    count: int

    def __len__(self) -> int:
        return self.count

    def items(self) -> Iterator[Item]:
        """Members that are pictures, as bytes. Raises UserError for a tar file that is damaged."""
        name = Path(self.path).name
        try:
            with tarfile.open(self.path) as archive:
                for member in archive:
                    if _is_picture(member):
                        file = archive.extractfile(member)
                        assert file is not None, "a plain member has content"
                        yield Item(f"{name}/{member.name}", file.read())
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"tar shard '{self.path}' can't be read ({error}); replace or remove it") from error


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """A row group of a parquet file: `column` holds bytes, or structs with them; `named` says whether "path" is a column."""

    path: str
    group: int
    first_row: int
    count: int
    column: str
    named: bool

    def __len__(self) -> int:
        return self.count

    def items(self) -> Iterator[Item]:
        """Rows as bytes; a row without them has a reason."""
        parquet = import_parquet()
        columns = [self.column, "path"] if self.named else [self.column]
        with parquet.ParquetFile(self.path) as file:
            table = file.read_row_group(self.group, columns=columns).to_pydict()
        for row, value in enumerate(table[self.column]):
            own = table["path"][row] if self.named else None
            name = str(own) if own is not None else f"{Path(self.path).name}/{self.first_row + row}"
            content = value.get("bytes") if isinstance(value, dict) else value
            if content is None:
                yield Item(name, b"", f"row {self.first_row + row} of '{self.path}' holds no picture")
            else:
                yield Item(name, content)


def import_parquet() -> Any:
    """pyarrow's parquet module. Raises UserError where pyarrow is not installed."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(
            "parquet needs pyarrow: pip install 'twostage[label]'; or write --format jsonl, which needs nothing"
        ) from error
    return parquet


def units_of(source: str, *, shard_size: int) -> list[Unit]:
    """The units of a source, in the order of the results.

    Args:
        source: a folder, a list of files (.txt, one path per line, relative to it), a .tar or .parquet file, or a folder of
            these.
        shard_size: files per unit, where units are not given.

    Raises:
        UserError: nothing there, no pictures, or something that is none of these.
    """
    path = user_path(source)
    if path.is_dir():
        tars, tables = sorted(path.glob("*.tar")), sorted(path.glob("*.parquet"))
        if tars or tables:
            return [unit for file in (*tars, *tables) for unit in _shards(file)]
        files = list_images([path])
        return _files([str(file.relative_to(path).as_posix()) for file in files], list(map(str, files)), shard_size)
    if not path.exists():
        raise UserError(f"source '{source}' does not exist; give a folder, a list of files, tar shards or parquet")
    if path.suffix in (".tar", ".parquet"):
        return _shards(path)
    if path.suffix != ".txt":
        raise UserError(
            f"source '{source}' is no folder, list of files (.txt), tar shard or parquet file; for single pictures use "
            "`twostage segment`"
        )
    lines = [line.strip() for line in read_text(path).split("\n")]
    names = [line for line in lines if line]
    if not names:
        raise UserError(f"list '{source}' names no pictures; give one path per line")
    return _files(names, [str(path.parent / user_path(name)) for name in names], shard_size)


def units_hash(units: Iterable[Unit]) -> str:
    """Says whether a source is still cut into the same units: a picture that came or went moves all behind it."""
    digest = hashlib.sha256()
    for unit in units:
        digest.update(repr(unit).encode())
    return digest.hexdigest()


def _files(names: list[str], paths: list[str], size: int) -> list[Unit]:
    starts = range(0, len(names), size)
    return [Files(tuple(names[i : i + size]), tuple(paths[i : i + size])) for i in starts]


def _shards(path: Path) -> list[Unit]:
    if path.suffix == ".tar":
        try:
            with tarfile.open(path) as archive:
                count = sum(map(_is_picture, archive))
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"tar shard '{path}' can't be read ({error}); replace or remove it") from error
        return [TarShard(str(path), count)]
    parquet = import_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    except Exception as error:  # pyarrow has a type for every reason
        raise UserError(f"parquet file '{path}' can't be read ({error}); replace or remove it") from error
    column = next((name for name in _COLUMNS if name in schema.names), None)
    if column is None:
        raise UserError(
            f"parquet file '{path}' has the columns {', '.join(schema.names)}; name the one with the pictures' bytes "
            f"{' or '.join(_COLUMNS[:2])}"
        )
    starts = [sum(rows[:i]) for i in range(len(rows))]
    named = "path" in schema.names
    return [RowGroup(str(path), i, starts[i], count, column, named) for i, count in enumerate(rows)]


def _is_picture(member: tarfile.TarInfo) -> bool:
    return member.isfile() and is_picture_name(Path(member.name).name)
