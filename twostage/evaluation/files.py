"""Writing result files so that a killed process never leaves half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"can't write '{path}': {error.strerror or error}; choose another output folder") from error
    finally:
        with suppress(OSError):  # gone after the rename, or its folder never came to be
            temporary.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically. Raises UserError where that is not possible."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
