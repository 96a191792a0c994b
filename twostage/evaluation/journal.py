"""What was already counted, on disk, so that a killed evaluation continues where it stopped.

One folder per dataset, one file per process and run in it: a JSON line that says what is evaluated, then one line per
image with all its counts, each behind its check sum. A line that a killed process left incomplete, or that was damaged, is
not counted. Finished images are known by their file name, so a continued evaluation may run on another number of processes.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from twostage.errors import UserError
from twostage.files import check_writable

logger = logging.getLogger(__name__)

Entry = dict[str, Any]
# Of the lines; raised when an entry gets other keys, so that an older journal is another subject.
_LAYOUT = 2
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
        self.subject = {**subject, "layout of the journal": _LAYOUT}
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
            try:
                subject, *lines = path.read_bytes().split(b"\n")
            except OSError as error:
                logger.warning("'%s' can't be read (%s); its images are evaluated again", path, error.strerror)
                continue
            found = _unpacked(subject)
            if found is None:
                if subject:
                    logger.warning("'%s' is damaged; its images are evaluated again", path)
                continue
            self._check_subject(found, path)
            known = [entry for line in lines if (entry := _unpacked(line)) is not None]
            entries.update((entry["file_name"], _with_arrays(entry)) for entry in known)
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
        try:
            self._append(entry)
        except OSError as error:
            self.close()
            raise UserError(
                f"can't write to '{self.folder}' ({error.strerror}); make room and go on by --resume, or choose another "
                "OUTPUT_DIR"
            ) from error

    def _append(self, entry: Entry) -> None:
        if self._file is None:
            number = sum(1 for _ in self.folder.glob(f"rank{self._rank}-*.jsonl"))
            self._file = (self.folder / f"rank{self._rank}-{number}.jsonl").open("w", encoding="utf-8")
            self._file.write(_packed(self.subject))
        self._file.write(_packed(entry))
        self._file.flush()

    def close(self) -> None:
        """Close this process's file."""
        if self._file is not None:
            # What a full disk left in the buffer is lost, and only that.
            with suppress(OSError):
                self._file.close()
            self._file = None


def _packed(content: Mapping[str, Any]) -> str:
    """A line: check sum and JSON."""
    text = json.dumps(content, default=_as_list)
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def _unpacked(line: bytes) -> dict[str, Any] | None:
    """What `_packed` was given; None where the line is not as it was written."""
    number, _, text = line.partition(b" ")
    if number != b"%08x" % zlib.crc32(text) or not text:
        return None
    content: dict[str, Any] = json.loads(text)
    return content


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
