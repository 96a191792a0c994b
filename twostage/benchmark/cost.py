"""What one run of something costs: wall and processor time, page faults, memory on top of what was held before."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from twostage.machine import peak_resident_memory

# Linux: writing 5 to the first makes the second's VmHWM begin anew.
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one run.

    Attributes:
        wall: seconds on the clock.
        processor: seconds of processor time of all threads, the system's share included.
        faults: page faults, which is how often the system had to hand out a page of memory; 0 on Windows.
    """

    wall: float
    processor: float
    faults: int


def measured(run: Callable[[], Any]) -> Cost:
    """The cost of calling `run` once."""
    synchronise()
    faults, processor, wall = _page_faults(), time.process_time(), time.perf_counter()
    run()
    synchronise()
    return Cost(
        wall=time.perf_counter() - wall, processor=time.process_time() - processor, faults=_page_faults() - faults
    )


def median(costs: Sequence[Cost]) -> Cost:
    """Of each figure apart."""
    return Cost(
        wall=statistics.median(cost.wall for cost in costs),
        processor=statistics.median(cost.processor for cost in costs),
        faults=int(statistics.median(cost.faults for cost in costs)),
    )


def added_memory(run: Callable[[], Any]) -> float:
    """Most bytes that a call of `run` adds to those held before it: of the GPU where there is one, else of the process.

    Apart from the timing, because free memory is given back to the system first. NaN where the system does not tell (not
    Linux).
    """
    gc.collect()
    synchronise()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        synchronise()
        return float(torch.cuda.max_memory_allocated() - before)
    _give_back()
    try:
        _CLEAR.write_text("5", encoding="ascii")
        resident = _status("VmRSS")
        run()
        return float(max(0, _status("VmHWM") - resident))
    except OSError:
        return math.nan


def peak_bytes() -> int:
    """Most memory held so far: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_resident_memory()


def synchronise() -> None:
    """Wait for the GPU where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _status(name: str) -> int:
    """A figure of this process that Linux tells, in bytes."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise OSError(f"{_STATUS} has no {name}")


def _give_back() -> None:
    """Let glibc return free memory to the system; other C libraries have no such call."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _page_faults() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt
