"""What a kept file was when it was first used: its sha256 beside it, as `sha256sum -c` reads it."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from twostage.errors import UserError
from twostage.files import write_text

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def record_file(path: Path) -> Path:
    """Where the sha256 of `path` is written down."""
    return path.with_name(f"{path.name}.sha256")


def recorded(path: Path) -> str:
    """What was written down; "" where nothing was.

    Raises:
        UserError: the record can't be read.
    """
    record = record_file(path)
    if not record.is_file():
        return ""
    words = record.read_text(encoding="utf-8", errors="replace").split()
    if not words or len(words[0]) != 64:
        raise UserError(f"'{record}' holds no sha256; delete it to have '{path.name}' recorded again")
    return words[0]


def write_record(path: Path, sha256: str) -> None:
    """Write down that `path` has this sha256. Raises UserError where that is not possible."""
    write_text(record_file(path), f"{sha256}  {path.name}\n")


def check(path: Path, *, published: str = "") -> None:
    """See that the kept file `path` is what it was on first use; the first time, write down what it is.

    Args:
        published: what its publisher says its sha256 begins with, "" where nobody does.

    Raises:
        UserError: it is another file, or can't be read.
    """
    try:
        found = sha256_of(path)
    except OSError as error:
        raise UserError(f"weights file '{path}' can't be read: {error.strerror}") from error
    known = recorded(path)
    if known and found != known:
        raise UserError(
            f"weights file '{path}' has changed since its first use (sha256 {found[:12]}..., was {known[:12]}...); delete it "
            f"to get it anew, or delete '{record_file(path).name}' beside it if the change was meant"
        )
    if not found.startswith(published):
        raise UserError(
            f"weights file '{path}' is not the published one (sha256 {found[:12]}..., published {published[:12]}...); delete "
            "it to get it anew"
        )
    if known:
        return
    try:
        write_record(path, found)
    except UserError as error:
        # A shared folder that others filled: usable, but a later change would not be noticed.
        logger.warning("the sha256 of '%s' is not kept: %s", path, error)
