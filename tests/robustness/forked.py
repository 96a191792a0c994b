"""Command-line tools in forked children of this process, in which everything is imported already."""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import torch

ROOT = Path(__file__).parents[2]
# Returns True once, at the moment at which the run is to be disturbed; given the seconds since its start.
Disturb = Callable[[int], None]


def run_tool(
    name: str,
    args: Sequence[object],
    *,
    log: Path,
    env: dict[str, str],
    after: float | None = None,
    disturb: Disturb | None = None,
    stdout: int | None = None,
    reader: int | None = None,
    limit: float = 120,
) -> tuple[int, float]:
    """Exit code (negative: the signal) and seconds of `tools/<name>.py`.

    Args:
        log: file that takes stderr, and stdout where that is not given.
        after, disturb: seconds after which `disturb(process)` is called, if it still runs.
        stdout: a file descriptor, and `reader` the other end of it, which only this process keeps.
        limit: seconds after which it counts as hanging; the exit code is then -9.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.monotonic()
    process = os.fork()
    if process == 0:
        if reader is not None:
            os.close(reader)
        _become(name, args, log, env, stdout)
    if stdout is not None:
        os.close(stdout)
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        now = time.monotonic() - start
        if found:
            return os.waitstatus_to_exitcode(status), now
        if disturb is not None and after is not None and now >= after:
            disturb(process)
            disturb = None
        if now > limit:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.004)


def leave_threads_behind() -> None:
    """First thing in a forked child: the threads of its parent's pools don't exist in it, and waiting for them hangs."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _become(name: str, args: Sequence[object], log: Path, env: dict[str, str], stdout: int | None) -> None:
    """Never returns."""
    code = 1
    try:
        leave_threads_behind()
        err = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(err if stdout is None else stdout, 1)
        os.dup2(err, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # This process's own may be files, which remember where they were.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        os.environ.update(env)
        script = str(ROOT / "tools" / f"{name}.py")
        sys.argv = [script, *map(str, args)]
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(code)
