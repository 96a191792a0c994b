"""What was already counted, on disk, so that a killed evaluation continues where it stopped.

One folder per dataset, one file per process and run in it: a JSON line that says what is evaluated, then one line per
image with all its counts. A line that a killed process left incomplete is not counted. Finished images are known by their
file name, so a continued evaluation may run on another number of processes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from twostage.errors import UserError
from twostage.files import check_writable

Entry = dict[str, Any]
# Kinds of array that measures keep; JSON's numbers restore both exactly.
_KINDS = {"i": np.int64, "f": np.float64}


class Journal:
    """Entries of finished images, read (with `resume`) and written.

    Args:
        folder: for this dataset alone; without `resume` an older one is emptied by `clear` first.
        subject: what is evaluated (hashes of config, weights, class list); entries of another subject are refused.
        rank: of this process.
    """

    def __init__(self, folder: str | Path, *, subject: Mapping[str, Any], rank: int = 0) -> None:
        self.folder = Path(folder)
        self.subject = dict(subject)
        self._rank = rank
        self._file: TextIO | None = None

    def clear(self) -> None:
        """Forget an earlier evaluation, or this one when it is complete."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def read(self) -> dict[str, Entry]:
        """Entries of all processes of earlier runs by `file_name`, with arrays as arrays.

        Raises:
            UserError: they are of another config, other weights or classes.
        """
        entries: dict[str, Entry] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            lines = path.read_text(encoding="utf-8").split("\n")
            # What follows the last line break was cut off by the kill.
            complete = [json.loads(line) for line in lines[:-1]]
            if not complete:
                continue
            self._check_subject(complete[0], path)
            entries.update((entry["file_name"], _with_arrays(entry)) for entry in complete[1:])
        return entries

    def _check_subject(self, found: Mapping[str, Any], path: Path) -> None:
        other = [key for key in self.subject if found.get(key) != self.subject[key]]
        if other:
            raise UserError(
                f"'{path.parent}' holds a stopped evaluation with another {' and '.join(other)}; evaluate without --resume "
                "to begin anew, or choose another OUTPUT_DIR"
            )

    def write(self, entry: Entry) -> None:
        """Add an image's entry; it is on its way to the disk when this returns. Raises UserError where it can't be."""
        if self._file is None:
            check_writable(self.folder)
            number = sum(1 for _ in self.folder.glob(f"rank{self._rank}-*.jsonl"))
            self._file = (self.folder / f"rank{self._rank}-{number}.jsonl").open("w", encoding="utf-8")
            self._file.write(json.dumps(self.subject) + "\n")
        self._file.write(json.dumps(entry, default=_as_list) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close this process's file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _as_list(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"kind": value.dtype.kind, "values": value.tolist()}
    raise TypeError(f"a journal holds no {type(value).__name__}")


def _with_arrays(entry: Entry) -> Entry:
    counts = {
        measure: {key: np.array(array["values"], _KINDS[array["kind"]]) for key, array in arrays.items()}
        for measure, arrays in entry["counts"].items()
    }
    return {**entry, "counts": counts}
