"""Files, written whole or not at all; a clear error where that is not possible.

A file has its name when its content is on the disk, also if the power fails a moment later: a file system is free to write
the new name first, and what took hours would then be an empty file under a name that says it is done. Waiting for the disk
costs milliseconds (docs/RESULTS.md, "Files that outlive a power failure"), nothing beside a checkpoint, a shard, a model or a
table. Only where many small files are written, one for a picture, it would show; those are not waited for
(`durable=False`), and the file that lists them or says that they are done comes after them and is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twostage.errors import UserError
from twostage.leftovers import remove_leftovers, temporary_name


@contextmanager
def atomic_path(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path` (made if missing); renamed to `path` when the block succeeds.

    Args:
        durable: whether the disk is waited for, see above; False for one of many files of pictures.

    Raises:
        UserError: the folder or file can't be written.
    """
    with _temporary(Path(path)) as temporary:
        yield temporary
        if durable:
            move_durably(temporary, Path(path))
        else:
            temporary.replace(path)


def move_durably(file: Path, path: Path) -> None:
    """Give a file that is complete its name `path`, on the same file system; content first, then the name.

    Raises:
        OSError: that is not possible.
    """
    _wait_for_content(file)
    file.replace(path)
    # Folders can't be opened everywhere; where they can't, the name comes when the system gets to it.
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _wait_for_content(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    # Of this thread alone: others may write the same file at the same time, and the last one wins.
    temporary = path.with_name(temporary_name(path.name))
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
    folder = Path(path).with_name(temporary_name(Path(path).name))
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"can't write '{folder.parent}': {error.strerror}; choose another output folder") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def write_text(path: str | Path, text: str, *, durable: bool = True) -> None:
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
        _wait_for_content(temporary)
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
