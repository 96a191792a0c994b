"""Log set-up: a short coloured line on the terminal, a full one in a file."""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import TextIO

from tabulate import tabulate
from termcolor import colored

from detectron2.utils.file_io import PathManager

__all__ = ["create_small_table", "log_every_n", "log_every_n_seconds", "log_first_n", "setup_logger"]

_TIME_FORMAT = "%m/%d %H:%M:%S"


class _TerminalFormatter(logging.Formatter):
    """Colours level and time, and shortens the package's name."""

    def __init__(self, *, name: str, short_name: str, color: bool) -> None:
        self.name, self.short_name, self.color = name, short_name, color
        prefix = colored("[%(asctime)s %(name)s]: ", "green") if color else "[%(asctime)s] %(name)s %(levelname)s: "
        super().__init__(prefix + "%(message)s", datefmt=_TIME_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.name == self.name or record.name.startswith(f"{self.name}."):
            # A copy: the same record also goes to the file, with its full name.
            record = copy.copy(record)
            record.name = self.short_name + record.name[len(self.name) :]
        line = super().formatMessage(record)
        if not self.color or record.levelno < logging.WARNING:
            return line
        blink = ["blink"] if record.levelno < logging.ERROR else ["blink", "underline"]
        return f"{colored(record.levelname, 'red', attrs=blink)} {line}"


# Called again with the same arguments, it must not add handlers again.
@functools.cache
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
) -> logging.Logger:
    """Let the logger `name` and those below it write to stdout (rank 0 only) and to a file.

    Args:
        output: a file (.txt or .log), or a folder in which to write `log.txt`; ranks above 0 append `.rank<N>`.
        abbrev_name: shown instead of `name` on the terminal; by default "d2" for detectron2.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if distributed_rank == 0:
        terminal = logging.StreamHandler(stream=sys.stdout)
        short_name = abbrev_name if abbrev_name is not None else {"detectron2": "d2"}.get(name, name)
        _add_handler(logger, terminal, _TerminalFormatter(name=name, short_name=short_name, color=color))
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            path += f".rank{distributed_rank}"
        plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_TIME_FORMAT)
        _add_handler(logger, logging.StreamHandler(_shared_file(path)), plain)
    return logger


def _add_handler(logger: logging.Logger, handler: logging.Handler, formatter: logging.Formatter) -> None:
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(formatter)
    logger.addHandler(handler)


@functools.cache
def _shared_file(path: str) -> TextIO:
    """The open log file: one per path, however many loggers write to it."""
    PathManager.mkdirs(os.path.dirname(path))
    file = PathManager.open(path, "a", buffering=1)
    atexit.register(_close, file)
    return file


def _close(file: TextIO) -> None:
    """Lines that find no room on the disk are left out, as they are before."""
    with contextlib.suppress(OSError):
        file.close()


_calls: Counter[tuple] = Counter()
_last_logged: dict[tuple, float] = {}


def _caller() -> tuple[tuple, str]:
    """Where the log helper was called: (file, line, function) and the module's name, for the logger."""
    frame = sys._getframe(2)
    place = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    return place, str(frame.f_globals.get("__name__", "detectron2"))


def log_first_n(
    lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | tuple[str, ...] = "caller"
) -> None:
    """Log only the first `n` times; times are counted by place of call ("caller"), "message", or both."""
    place, module = _caller()
    keys = (key,) if isinstance(key, str) else key
    identity = ("first", *((place,) if "caller" in keys else ()), *((msg,) if "message" in keys else ()))
    _calls[identity] += 1
    if _calls[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log the first of every `n` calls from the same place."""
    place, module = _caller()
    identity = ("every", place)
    _calls[identity] += 1
    if n == 1 or _calls[identity] % n == 1:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log at most once in `n` seconds from the same place."""
    place, module = _caller()
    now = time.time()
    if now - _last_logged.get(place, -float("inf")) >= n:
        logging.getLogger(name or module).log(lvl, msg)
        _last_logged[place] = now


def create_small_table(small_dict: Mapping[str, object]) -> str:
    """A dict as a table of one row under its keys."""
    return tabulate([tuple(small_dict.values())], headers=tuple(small_dict), tablefmt="pipe", floatfmt=".3f")


def _log_api_usage(identifier: str) -> None:
    """Upstream reports usage inside its makers' network; here nothing is reported."""
