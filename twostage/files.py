"""Files, written whole or not at all; a clear error where that is not possible."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twostage.errors import UserError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path` (made if missing); renamed to `path` when the block succeeds.

    Raises:
        UserError: the folder or file can't be written.
    """
    path = Path(path)
    # Of this thread alone: others may write the same file at the same time, and the last one wins.
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"can't write '{path}': {reason}; make room or choose another output folder") from error
    finally:
        with suppress(OSError):  # gone after the rename, or its folder never came to be
            temporary.unlink()


def content_sha256(paths: Iterable[str | Path]) -> str:
    """sha256 of what several files hold, in order; a file that can't be read counts as such."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            content = Path(path).read_bytes()
        except OSError:
            content = b"unreadable"
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically; bytes of file names that are no UTF-8 are written as JSON escapes them.

    Raises:
        UserError: that is not possible.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_writable(folder: str | Path, cure: str = "choose another by OUTPUT_DIR DIR") -> None:
    """Make `folder` and see that files can be written in it. Raises UserError naming it and the `cure`."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"output folder '{folder}' can't be written ({error.strerror}); {cure}") from error
