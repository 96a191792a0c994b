"""Files, written whole or not at all; a clear error where that is not possible."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twostage.errors import UserError

# Bytes of a file's own name in that of its temporary; file systems hold 255 of the whole.
_NAME_BYTES = 120
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.(?P<host>[^.]*)\.(?P<process>\d+)-\d+\.tmp", re.DOTALL)
# Behind this many seconds without a change a temporary of another machine, which can't be asked, is nobody's.
_FORSAKEN = 86400.0
# About when this process started: what is older and bears its number is of an earlier process of that number.
_STARTED = time.time()


@contextmanager
def atomic_path(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path` (made if missing); renamed to `path` when the block succeeds.

    Args:
        durable: whether the content is on the disk, also if the power fails, before the file has its name.

    Raises:
        UserError: the folder or file can't be written.
    """
    with _temporary(Path(path)) as temporary:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    # Of this thread alone: others may write the same file at the same time, and the last one wins.
    temporary = path.with_name(_temporary_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"can't write '{path}': {reason}; make room or choose another output folder") from error
    finally:
        with suppress(OSError):  # gone after the rename, or its folder never came to be
            temporary.unlink()


@contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """Yields a new hidden folder beside `path`, for files that are looked at before they are moved to where they belong.

    It goes with the block, and with `remove_leftovers` where the process was killed.

    Raises:
        UserError: the folder can't be made.
    """
    folder = Path(path).with_name(_temporary_name(Path(path).name))
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"can't write '{folder.parent}': {error.strerror}; choose another output folder") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary_name(name: str) -> str:
    """Says which process of which machine writes it, for `remove_leftovers`."""
    encoded = name.encode("utf-8", "surrogateescape")
    start = encoded[:_NAME_BYTES].decode("utf-8", "ignore")
    process = f"{os.getpid()}-{threading.get_ident()}"
    return f".{start}.{zlib.crc32(encoded):08x}.{_host()}.{process}.tmp"


@functools.cache
def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:60]


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporaries in `folder` of processes that were killed; those of living processes stay.

    A process of this machine is asked for; a temporary of another machine goes when nobody has written it for a day.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name) if entry.name.endswith(".tmp") else None
            with suppress(OSError):  # gone in the meantime, or not ours to remove
                if found and not _may_be_written(found["host"], int(found["process"]), entry.stat().st_mtime):
                    remove = shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.remove
                    remove(entry.path)


def _may_be_written(host: str, process: int, changed: float) -> bool:
    if host != _host() or os.name == "nt":  # Windows has no question that does not end a process
        return time.time() - changed < _FORSAKEN
    if process == os.getpid():
        return changed >= _STARTED
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


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


def write_text(path: str | Path, text: str, *, durable: bool = False) -> None:
    """Write a UTF-8 text file atomically; bytes of file names that are no UTF-8 are written as JSON escapes them.

    Args:
        durable: as `atomic_path` has it.

    Raises:
        UserError: that is not possible.
    """
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_new_text(path: str | Path, text: str) -> bool:
    """As `write_text`, where no file is there; returns whether it was written. Of several at the same time one writes.

    Raises:
        UserError: that is not possible.
    """
    with _temporary(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if Path(path).exists():
                return False
            temporary.replace(path)
    return True


def check_writable(
    folder: str | Path, cure: str = "choose another by OUTPUT_DIR DIR", *, remove_killed: bool = True
) -> None:
    """Make `folder` and see that files can be written in it. Raises UserError naming it and the `cure`.

    Args:
        remove_killed: whether what killed processes left there half written is removed, for which the folder is listed.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"output folder '{folder}' can't be written ({error.strerror}); {cure}") from error
    if remove_killed:
        remove_leftovers(folder)
