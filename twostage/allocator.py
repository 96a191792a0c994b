"""What the C library does with memory that is freed: by default it hands big buffers back to the system each time."""

from __future__ import annotations

import os
import sys

KEEP = "TWOSTAGE_KEEP_FREED_MEMORY"
# glibc's mallopt(3): from which size on a buffer is a mapping of its own, and how much free memory stays at the top.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_THRESHOLD = 2**30
# A user who set one of these has decided.
_OF_GLIBC = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep freed buffers of up to 1 GiB for the next ones; returns whether it does.

    A dense network frees and asks for the same tens of megabytes in every layer. glibc maps and unmaps them, so that the
    system clears each page again and again: measured in `docs/RESULTS.md`, "Freed memory". For whole programs only, as it
    holds for everything in the process: a library must not. Nothing is done without glibc, where the user has set glibc's
    own variables, or with `TWOSTAGE_KEEP_FREED_MEMORY=0`.
    """
    if sys.platform != "linux" or os.environ.get(KEEP) == "0" or any(name in os.environ for name in _OF_GLIBC):
        return False
    # Only now, so that `--help` does not wait for it.
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _THRESHOLD))
