"""Freed memory stays with a program, and with a program only."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# 50 times 64 MiB, asked for, written to and freed: the pages that the system has to clear for the last 40.
PAGES = """
import resource
from twostage.errors import run_cli
import numpy as np
def main():
    faults = []
    for _ in range(50):
        np.ones(2**26, dtype=np.uint8)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    print(faults[-1] - faults[9])
"""


def _pages(run: str, **environment: str) -> int:
    result = subprocess.run(
        [sys.executable, "-c", PAGES + run],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout)


def _has_mallopt() -> bool:
    import ctypes

    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")


@pytest.mark.skipif(not _has_mallopt(), reason="only glibc has mallopt")
def test_programs_keep_what_they_freed():
    # Huge pages are 512 times as large, so that a page of 64 MiB is no more than 32 faults each time with them.
    kept, imported = _pages("run_cli(main)"), _pages("main()")
    assert kept < 40
    assert imported >= 40 * 32
    assert _pages("run_cli(main)", TWOSTAGE_KEEP_FREED_MEMORY="0") >= 40 * 32
    assert _pages("run_cli(main)", MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") >= 40 * 32
