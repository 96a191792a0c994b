"""What killed processes leave half written: names that tell whose a temporary file is, and their removal."""

from __future__ import annotations

import functools
import os
import re
import shutil
import socket
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

# Bytes of a file's own name in that of its temporary; file systems hold 255 of the whole.
_NAME_BYTES = 120
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.(?P<host>[^.]*)\.(?P<process>\d+)-\d+\.tmp", re.DOTALL)
# Behind this many seconds without a change a temporary of another machine, which can't be asked, is nobody's.
_FORSAKEN = 86400.0
# About when this process started: what is older and bears its number is of an earlier process of that number.
_STARTED = time.time()


def temporary_name(name: str) -> str:
    """A hidden name beside the file `name` that says which process of which machine writes it, for `remove_leftovers`."""
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
