"""The one exception for mistakes a user can correct, and how command-line tools show it.

Everything that is wrong with the *input* (a missing folder, a misspelt key, a broken checkpoint) is raised as
`UserError` with a single line: what is wrong, which file, key or value it is, and what to do about it. Tools run
their main function through `run_cli`, which prints that line and leaves with exit code 2, without a traceback.
"""

from __future__ import annotations

import atexit
import difflib
import errno
import io
import logging
import os
import re
import reprlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable

from twostage.allocator import keep_freed_memory

EXIT_USER_ERROR = 2
# What a shell reports for a process that SIGPIPE ended.
EXIT_BROKEN_PIPE = 141
# ... and for one that SIGTERM ended.
EXIT_TERMINATED = 143


# torch's words where an allocation fails, and the amount in them.
_NO_MEMORY = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory")
_ASKED = re.compile(r"[\d.]+ (bytes|[KMGTPE]iB)")

# Letters without a space; no name, path or key that anybody could read is longer.
_LONGEST_WORD = 400


class UserError(Exception):
    """A mistake in what the user handed in; `str(error)` is one line that names the culprit and the way out.

    Endless words of the input are cut.

    >>> len(str(UserError(f"no file is called '{'x' * 5000}'")))
    418
    """

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(rf"\S{{{_LONGEST_WORD},}}", lambda word: f"{word[0][: _LONGEST_WORD - 3]}...", message))


class DamagedFileError(UserError):
    """A file is empty, cut off or damaged; another copy of it helps, or another file in its place."""


def near_names(name: str, allowed: Iterable[str], limit: int = 3) -> str:
    """A suffix for error messages: ` (did you mean 'a' or 'b'?)`, or an empty string when nothing is close.

    >>> near_names("san", ["SAN", "SCAN"])
    " (did you mean 'SAN' or 'SCAN'?)"
    """
    # By lower case, so that a name in the wrong case is near.
    folded = {entry.casefold(): entry for entry in sorted(set(allowed), reverse=True)}
    close = [folded[key] for key in difflib.get_close_matches(name.casefold(), sorted(folded), n=limit, cutoff=0.6)]
    return f" (did you mean {' or '.join(repr(c) for c in close)}?)" if close else ""


def shown(value: object, limit: int = 80) -> str:
    """`repr` of a value for a message, cut where it is long or deep.

    >>> shown("cat"), shown("x" * 99, limit=12)
    ("'cat'", "'xxxxxxxx...")
    """
    # The whole of a nested list may be larger than the memory: yaml's aliases repeat parts for nothing.
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, 2 * limit, 2 * limit
    text = short.repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def find_user_error(error: BaseException | None) -> UserError | None:
    """The `UserError` an exception is, was raised from or wraps (spawned workers hand over only text), else None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # A worker process hands over the whole traceback as text; torch even puts it into an error of the same type.
        kinds: list[type[UserError]] = [UserError, *UserError.__subclasses__()]
        told = re.split("|".join(rf"{re.escape(kind.__module__)}\.{kind.__qualname__}: " for kind in kinds), str(error))
        if len(told) > 1:
            return UserError(told[-1].splitlines()[0])
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _disk_error(error: BaseException | None) -> UserError | None:
    """What a full or read-only disk means for the user, where that is why something failed, else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            where = f" '{error.filename}'" if error.filename else " a file"
            return UserError(f"can't write{where}: {error.strerror}; make room or choose another output folder")
        error = error.__cause__ or error.__context__
    return None


def _memory_error(error: BaseException | None) -> UserError | None:
    """What too little memory (of the machine or its GPU) means for the user, where something failed for that, else None."""
    while error is not None:
        # torch has a type of its own for the GPU and none for the machine's memory.
        if (
            isinstance(error, MemoryError)
            or type(error).__name__ == "OutOfMemoryError"
            or _NO_MEMORY.search(str(error))
        ):
            asked = _ASKED.search(str(error))
            amount = f" for another {asked[0]}" if asked else ""
            return UserError(
                f"there is not enough memory{amount}; give smaller pictures (INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST; in "
                "training INPUT.CROP.SIZE and SOLVER.IMS_PER_BATCH), or fewer words"
            )
        error = error.__cause__ or error.__context__
    return None


def _end_by_interrupt() -> None:
    """End this process by SIGINT, so that a shell's loop around it ends as well; what cleans up at the end runs before."""
    atexit._run_exitfuncs()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def run_cli(main: Callable[[], object]) -> None:
    """Run a tool's `main()`; a `UserError` becomes `error: ...` on stderr and exit code 2.

    What a terminal's encoding has no letter for is printed escaped. Ctrl-C ends the process by SIGINT, with a line in place of
    a traceback. A reader that went away (`| head`) ends the tool quietly; log lines that find no reader or no room on the disk
    are left out. Set `TWOSTAGE_TRACEBACK=1` to see the full traceback instead. The process keeps freed memory
    (`twostage/allocator.py`).
    """
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Where a log line can't be written, Python prints a traceback and goes on; we go on without.
    logging.raiseExceptions = False
    if threading.current_thread() is threading.main_thread():
        # Leaving as an exception runs what cleans up: temporary files, worker processes.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Nothing may be written any more, not even by the interpreter's own flush at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except KeyboardInterrupt:
        if os.environ.get("TWOSTAGE_TRACEBACK") == "1":
            raise
        print("interrupted", file=sys.stderr, flush=True)
        sys.stdout.flush()
        _end_by_interrupt()
    except Exception as error:
        known = find_user_error(error) or _disk_error(error) or _memory_error(error)
        if known is None or os.environ.get("TWOSTAGE_TRACEBACK") == "1":
            raise
        sys.stdout.flush()
        print(f"error: {known}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
