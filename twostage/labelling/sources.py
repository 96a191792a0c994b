"""Where the pictures of `twostage label` come from, cut into units that are labelled and written as a whole.

| source                            | its units                                      | a picture's name              |
|-----------------------------------|------------------------------------------------|-------------------------------|
| folder, or a list of files (.txt) | so many files one after the other              | its path, as below    |
| tar shards (webdataset's layout)  | one per tar file                               | `shard.tar/member`            |
| parquet with bytes of pictures    | one per row group                              | `file.parquet/row` or its column |

Units depend on the source alone, never on how many processes share them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from twostage.data.images import files_below, is_picture_name, list_images
from twostage.errors import UserError
from twostage.labelling.shards import is_result
from twostage.labelling.tables import table_units
from twostage.labelling.tars import tar_units
from twostage.labelling.units import Files, Unit
from twostage.machine import user_path
from twostage.words import read_text

logger = logging.getLogger(__name__)


def units_of(source: str, *, shard_size: int) -> list[Unit]:
    """The units of a source, in the order of the results.

    Args:
        source: a folder, a list of files (.txt, one path per line, relative to it), a .tar or .parquet file, or a folder of
            these. What `twostage label` itself has written is none of it.
        shard_size: files per unit, where units are not given.

    Raises:
        UserError: nothing there, no pictures, or something that is none of these.
    """
    path = user_path(source)
    if path.is_dir():
        return _of_folder(path, shard_size)
    if not path.exists():
        raise UserError(f"source '{source}' does not exist; give a folder, a list of files, tar shards or parquet")
    if path.suffix == ".tar":
        return tar_units([(path, path.name)])
    if path.suffix == ".parquet":
        return table_units(path, path.name)
    if path.suffix != ".txt":
        raise UserError(
            f"source '{source}' is no folder, list of files (.txt), tar shard or parquet file; for single pictures use "
            "`twostage segment`"
        )
    lines = [line.strip() for line in read_text(path).split("\n")]
    names = [str(user_path(line)) if line.startswith("~") else line for line in lines if line]
    if not names:
        raise UserError(f"list '{source}' names no pictures; give one path per line")
    return _files(str(path.parent), names, shard_size)


def units_hash(units: Iterable[Unit]) -> str:
    """Says whether a source is still cut into the same units: a picture that came or went moves all behind it."""
    digest = hashlib.sha256()
    for unit in units:
        digest.update(unit.identity.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _of_folder(folder: Path, shard_size: int) -> list[Unit]:
    shards = [
        file
        for file in files_below(folder)
        if file.suffix in (".tar", ".parquet") and not file.name.startswith(".") and not is_result(file)
    ]
    if not shards:
        return _files(str(folder), [file.relative_to(folder).as_posix() for file in list_images([folder])], shard_size)
    loose = sum(is_picture_name(file.name) for file in files_below(folder))
    if loose:
        logger.warning("Left out of folder '%s': %d pictures beside its tar or parquet files", folder, loose)
    named = [(file, file.relative_to(folder).as_posix()) for file in shards]
    tars = [entry for entry in named if entry[0].suffix == ".tar"]
    tables = [entry for entry in named if entry[0].suffix == ".parquet"]
    units = tar_units(tars) if tars else []
    for path, name in tables:
        units += table_units(path, name, alone=len(shards) == 1)
    return units


def _files(folder: str, names: Sequence[str], size: int) -> list[Unit]:
    return [Files(folder, tuple(names[i : i + size])) for i in range(0, len(names), size)]
