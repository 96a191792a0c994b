"""Results on disk: per unit of the source a few files, each written whole, and last of all a mark that says so."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twostage.data.images import is_picture_name
from twostage.errors import UserError
from twostage.files import atomic_path, write_new_text, write_text
from twostage.labelling.tables import import_parquet

SETTINGS = "labelling.json"

Rows = Sequence[Mapping[str, Any]]


class Output:
    """A folder of results: `part-00012.parquet` and the like, `part-00012.done` behind them."""

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        self.folder = folder
        self.formats = tuple(formats)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write down what this run does.

        Raises:
            UserError: the folder holds results of a run that did something else.
        """
        path = self.folder / SETTINGS
        text = json.dumps({**settings, "formats": self.formats}, indent=1, ensure_ascii=False) + "\n"
        # Of two that begin at the same time one writes, and the other compares.
        if write_new_text(path, text):
            return
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"'{path}' can't be read ({error}); choose another --output") from error
        # As it will be read again: JSON knows no tuples.
        wanted = json.loads(text)
        other = sorted(key for key in {*there, *wanted} if there.get(key) != wanted.get(key))
        if other:
            raise UserError(
                f"'{self.folder}' holds labels of another run (other {', '.join(other)}); choose another --output"
            )

    def is_done(self, number: int) -> bool:
        """Whether unit `number` is complete."""
        return self._path(number, "done").exists()

    def write(self, number: int, rows: Rows, names: Sequence[str]) -> dict[str, int]:
        """Write the rows of unit `number` in every format; returns its counts: `pictures`, `broken`, `bytes`."""
        written = 0
        for name in self.formats:
            ending, write = _WRITERS[name]
            with atomic_path(self._path(number, ending)) as temporary:
                write(temporary, rows, names)
                written += temporary.stat().st_size
        counts = {"pictures": len(rows), "broken": sum(bool(row["error"]) for row in rows), "bytes": written}
        write_text(self._path(number, "done"), json.dumps(counts) + "\n")
        return counts

    def counts(self, number: int) -> dict[str, int]:
        """What `write` returned for a complete unit."""
        return json.loads(self._path(number, "done").read_text(encoding="utf-8"))

    def _path(self, number: int, ending: str) -> Path:
        return self.folder / f"part-{number:05d}.{ending}"


def _write_parquet(path: Path, rows: Rows, names: Sequence[str]) -> None:
    parquet = import_parquet()
    import pyarrow

    segment = pyarrow.struct(
        [
            ("name", pyarrow.string()),
            ("label", pyarrow.int32()),
            ("score", pyarrow.float64()),
            ("area", pyarrow.int64()),
            ("box", pyarrow.list_(pyarrow.int32())),
            ("counts", pyarrow.string()),
        ]
    )
    columns = [
        ("path", pyarrow.string()),
        ("height", pyarrow.int32()),
        ("width", pyarrow.int32()),
        ("model", pyarrow.string()),
        ("vocabulary", pyarrow.string()),
        ("error", pyarrow.string()),
        ("segments", pyarrow.list_(segment)),
    ]
    without_maps = [{key: row[key] for key, _ in columns} for row in rows]
    table = pyarrow.Table.from_pylist(without_maps, schema=pyarrow.schema(columns))
    parquet.write_table(table, path, compression="zstd")


def _write_jsonl(path: Path, rows: Rows, names: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            kept = {key: value for key, value in row.items() if key != "label_map"}
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")


def _write_coco(path: Path, rows: Rows, names: Sequence[str]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row in rows:
        if row["error"]:
            continue
        size = [row["height"], row["width"]]
        images.append({"id": len(images) + 1, "file_name": row["path"], "height": size[0], "width": size[1]})
        for segment in row["segments"]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": segment["label"] + 1,
                    "segmentation": {"size": size, "counts": segment["counts"]},
                    "area": segment["area"],
                    "bbox": segment["box"],
                    "score": segment["score"],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(names, start=1)]
    whole = {
        "info": {"description": "twostage"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    path.write_text(json.dumps(whole, ensure_ascii=False) + "\n", encoding="utf-8")


def _map_name(picture: str, taken: Collection[str]) -> str:
    """The name of a label map inside its tar: the picture's with .png for its suffix.

    Unpacked, it lies below the folder, and none takes another's place: of a.jpg and a.png the second becomes a.png.png, a
    third a.png_2.png. A picture that is a row of a table has no suffix to take off (`a.parquet/0`).
    """
    own = "/".join(part for part in picture.split("/") if part not in ("", ".", ".."))
    short = own.rpartition(".")[0] if is_picture_name(own.rpartition("/")[2]) else own
    names = (short, own, *(f"{own}_{number}" for number in range(2, len(taken) + 2)))
    return next(f"{name}.png" for name in names if f"{name}.png" not in taken)


def _write_maps(path: Path, rows: Rows, names: Sequence[str]) -> None:
    taken: set[str] = set()
    with tarfile.open(path, "w") as archive:
        for row in rows:
            if row["label_map"] is None:
                continue
            name = _map_name(row["path"], taken)
            taken.add(name)
            # Without a time, so that the same labels give the same file.
            member = tarfile.TarInfo(name)
            member.size = len(row["label_map"])
            archive.addfile(member, io.BytesIO(row["label_map"]))


_WRITERS: dict[str, tuple[str, Callable[[Path, Rows, Sequence[str]], None]]] = {
    "parquet": ("parquet", _write_parquet),
    "jsonl": ("jsonl", _write_jsonl),
    "coco": ("coco.json", _write_coco),
    "png": ("png.tar", _write_maps),
}


def is_result(path: Path) -> bool:
    """Whether a file is one that `Output` writes: of its name, and beside its settings."""
    return path.name.startswith("part-") and (path.parent / SETTINGS).exists()


def read_rows(folder: Path) -> Iterable[dict[str, Any]]:
    """The rows of all complete units in their order, from parquet or jsonl. Raises UserError where neither is there."""
    # By number: from the 100,000th part on names are longer.
    marks = sorted(folder.glob("part-*.done"), key=lambda mark: int(mark.stem.removeprefix("part-")))
    for mark in marks:
        table, lines = mark.with_suffix(".parquet"), mark.with_suffix(".jsonl")
        if table.exists():
            yield from import_parquet().read_table(table).to_pylist()
        elif lines.exists():
            with lines.open(encoding="utf-8", newline="\n") as file:
                yield from map(json.loads, file)
        else:
            raise UserError(f"'{folder}' holds no rows for '{mark.name}'; label with --format parquet or jsonl")
