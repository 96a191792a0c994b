"""Parquet files with the bytes of pictures, one unit per row group."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twostage.errors import UserError
from twostage.labelling.units import Item, Unit, Unreadable

# Columns that may hold a picture's bytes; Hugging Face's image columns are structs of bytes and path.
_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "content")
# Rows and bytes that are read at a time: a row group may be larger than the memory.
_ROWS, _BYTES = 16, 2**20


def import_parquet() -> Any:
    """pyarrow's parquet module. Raises UserError where pyarrow is not installed."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(
            "parquet needs pyarrow: pip install 'twostage[label]'; or write --format jsonl, which needs nothing"
        ) from error
    return parquet


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """A row group of a parquet file, which results call `name`.

    `column` holds bytes, or structs with them; `named` says whether "path" is a column.
    """

    path: str
    name: str
    group: int
    first_row: int
    count: int
    column: str
    named: bool
    counted: bool = True

    @property
    def identity(self) -> str:
        """Name, group and rows."""
        return f"{self.name} {self.group} {self.first_row} {self.count}"

    def __len__(self) -> int:
        return self.count

    def items(self) -> Iterator[Item]:
        """Rows as bytes; a row without them has a reason, and so have those behind damage."""
        row = 0
        try:
            for own, value in self._rows():
                name = str(own) if own is not None else f"{self.name}/{self.first_row + row}"
                content = value.get("bytes") if isinstance(value, dict) else value
                where = f"row {self.first_row + row} of '{self.path}'"
                row += 1
                if isinstance(content, bytes):
                    yield Item(name, content)
                else:
                    yield Item(name, b"", f"{where} holds no picture")
        except Exception as error:  # pyarrow has a type for every reason
            reason = f"row group {self.group} of '{self.path}' is damaged ({' '.join(str(error).split())}); replace it"
            for left in range(row, self.count):
                yield Item(f"{self.name}/{self.first_row + left}", b"", reason)

    def _rows(self) -> Iterator[tuple[Any, Any]]:
        """What stands in "path", None without such a column, and in the pictures' column."""
        columns = [self.column, "path"] if self.named else [self.column]
        with import_parquet().ParquetFile(
            self.path, buffer_size=_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file:
            for batch in file.iter_batches(batch_size=_ROWS, row_groups=[self.group], columns=columns):
                values = batch.column(self.column).to_pylist()
                own = batch.column("path").to_pylist() if self.named else [None] * len(values)
                yield from zip(own, values, strict=True)


def table_units(path: Path, name: str, *, alone: bool = True) -> list[Unit]:
    """The row groups of a file.

    Args:
        alone: whether there is no other file, so that one that can't be read is an error; else it is a unit that says so.

    Raises:
        UserError: it can't be read, or no column holds pictures' bytes.
    """
    parquet = import_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    except Exception as error:  # pyarrow has a type for every reason
        reason = f"parquet file '{path}' can't be read ({' '.join(str(error).split())}); replace or remove it"
        if not alone:
            return [Unreadable(name, reason)]
        raise UserError(reason) from error
    column = next((name for name in _COLUMNS if name in schema.names and _holds_bytes(schema.field(name).type)), None)
    if column is None:
        kinds = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UserError(
            f"parquet file '{path}' has the columns {kinds}; name the one with the pictures' bytes "
            f"{' or '.join(_COLUMNS[:2])}"
        )
    starts = [sum(rows[:i]) for i in range(len(rows))]
    named = "path" in schema.names
    return [RowGroup(str(path), name, i, starts[i], count, column, named) for i, count in enumerate(rows)]


def _holds_bytes(kind: Any) -> bool:
    """Of a column's type: bytes, or a struct with them."""
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return types.is_binary(kind) or types.is_large_binary(kind)
