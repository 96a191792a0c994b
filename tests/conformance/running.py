"""Finding the runner of a case, and running it on the number of threads that it was made with."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Callable
from functools import cache

import torch

import conformance.systems
from conformance.case import Case
from conformance.comparison import Comparison
from twostage.errors import UserError, near_names

Check = Callable[[Case], list[Comparison]]
# Sums over threads round differently, and the cases do not say on how many they were made: some are met bit for bit on one
# and not on two (OVSeg's base-small, by its backbone), others the other way round (OVSeg's base-full, SCAN's ade-full).
# Deep networks drift by up to 1.4e-4 in an array and 2e-3 in a gradient norm on the other number.
REFERENCE_THREADS = (1, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run of a case gave: its comparisons, on how many threads, and what could not be compared."""

    rows: list[Comparison]
    threads: int
    left_out: list[str]

    @property
    def failures(self) -> list[Comparison]:
        """Comparisons beyond tolerance."""
        return [row for row in self.rows if not row.passed]

    @property
    def passed(self) -> bool:
        """Something of the case was compared, and all of it matches."""
        return self.compared_something and not self.failures

    @property
    def compared_something(self) -> bool:
        """Whether anything that the case holds was compared."""
        return any(not row.own for row in self.rows)


@cache
def runners() -> dict[str, Check]:
    """A case's "system" -> its `check`: every module of `conformance.systems` that says which `SYSTEMS` it runs."""
    found: dict[str, Check] = {}
    for entry in pkgutil.iter_modules(conformance.systems.__path__):
        module = importlib.import_module(f"conformance.systems.{entry.name}")
        for system in getattr(module, "SYSTEMS", ()):
            if system in found:
                raise ImportError(f"cases of {system!r} have two runners, one of them {module.__name__}")
            found[system] = module.check
    return found


def system_of(case: Case) -> str:
    """Which system a case is of. Cases of a training step, or of a part of a system, say so behind its name.

    Cases that do not say have their system in the name of their file or of a folder above it.
    """
    system = case.meta["system"].partition(" repo ")[0].removesuffix(" training")
    if system in runners():
        return system
    for part in reversed(case.path.resolve().parts):
        for known in runners():
            if re.search(rf"(?<![a-z]){re.escape(known.lower())}(?![a-z])", part.lower()):
                return known
    return system


def check(case: Case) -> list[Comparison]:
    """Compare a case on the threads there are. Raises UserError where nobody runs its system."""
    system = system_of(case)
    if system not in runners():
        raise UserError(f"case '{case.path}' is of {system!r}, which has no runner here{near_names(system, runners())}")
    return runners()[system](case)


def run(case: Case, checks: Check = check) -> Outcome:
    """Compare a case on each of `REFERENCE_THREADS` until all of it matches; the run that matches best counts."""
    best: Outcome | None = None
    before = torch.get_num_threads()
    try:
        for threads in REFERENCE_THREADS:
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            case = case.again()
            rows = checks(case)
            outcome = Outcome(rows=rows, threads=threads, left_out=case.left_out())
            if best is None or len(outcome.failures) < len(best.failures):
                best = outcome
            if not outcome.failures:
                break
    finally:
        torch.set_num_threads(before)
    assert best is not None
    return best
