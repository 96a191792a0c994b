"""One bad input at one door of the product, and what became of it.

Trials run in a forked child of a process that has imported everything, one child per door; a child that dies or hangs is
replaced, and the trial it was at counts as wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from robustness.forked import leave_threads_behind
from twostage.errors import UserError

# Longer than any door may take, in seconds.
HANGS = 30
# Longer than a sentence, in letters.
_SENTENCE = 1500
# A file that only executed input would write, beside the trials.
CANARY = "canary"

# What a trial does in an empty folder of its own: returns where the result is right, raises UserError for a clear error.
Action = Callable[[Path], None]


class WrongResultError(Exception):
    """The product gave a result, and it is not the right one."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A bad input; `name` says which, for the list of failures."""

    name: str
    action: Action


@dataclasses.dataclass(frozen=True)
class Door:
    """A way into the product; `trials(rng, count)` gives about `count` of them."""

    name: str
    trials: Callable[[np.random.Generator, int], Iterator[Trial]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`verdict`: "right", "error" (a clear one) or "wrong"; `detail` is the error's text."""

    door: str
    trial: str
    verdict: str
    detail: str
    seconds: float


def require(holds: bool, what: str) -> None:
    """WrongResultError unless `holds`."""
    if not holds:
        raise WrongResultError(what)


def run_door(door: Door, *, seed: int, count: int, folder: Path) -> list[Outcome]:
    """All trials of a door."""
    trials = list(door.trials(np.random.default_rng(seed), count))
    outcomes: list[Outcome] = []
    report = folder / f"{door.name}.jsonl"
    while len(outcomes) < len(trials):
        child = os.fork()
        if child == 0:
            _run_child(door, trials, len(outcomes), folder, report)
        _wait(child, report)
        lines = report.read_text().splitlines() if report.exists() else []
        outcomes = [Outcome(**json.loads(line)) for line in lines]
        if len(outcomes) < len(trials):
            died = Outcome(door.name, trials[len(outcomes)].name, "wrong", "the process died or hung", 0.0)
            with report.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(died)) + "\n")
            outcomes.append(died)
    return outcomes


def _wait(child: int, report: Path) -> None:
    """Until the child has left; it is killed where it reports nothing for longer than a door may take."""
    last, since = -1, time.monotonic()
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        size = report.stat().st_size if report.exists() else 0
        if size != last:
            last, since = size, time.monotonic()
        if time.monotonic() - since > HANGS + 15:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _run_child(door: Door, trials: Sequence[Trial], first: int, folder: Path, report: Path) -> None:
    """Never returns."""
    try:
        leave_threads_behind()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        warnings.simplefilter("ignore")
        with report.open("a") as file:
            for trial in trials[first:]:
                outcome = run_trial(door.name, trial, folder / door.name)
                file.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
                file.flush()
    finally:
        os._exit(0)


def run_trial(door: str, trial: Trial, folder: Path) -> Outcome:
    """One trial in the empty `folder`, which is gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start = time.monotonic()
    verdict, detail = "right", ""
    try:
        with _alarm(HANGS):
            trial.action(folder)
    except UserError as error:
        verdict, detail = "error", str(error)
        if not detail.strip() or "\n" in detail or len(detail) > _SENTENCE or "Traceback" in detail:
            verdict, detail = "wrong", f"not one sentence: {detail[:200]!r}"
    except Exception as error:
        verdict, detail = "wrong", f"{type(error).__name__}: {error}{_place(error)}"
    left = [str(path.name) for path in folder.rglob("*") if path.name.endswith(".tmp")]
    if left:
        verdict, detail = "wrong", f"left behind: {left[0]}"
    if (folder.parent / CANARY).exists():
        (folder.parent / CANARY).unlink()
        verdict, detail = "wrong", "code of the input was executed"
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(door, trial.name, verdict, detail[:600], round(time.monotonic() - start, 3))


def _place(error: BaseException) -> str:
    """Where an exception came from, innermost line of the product first."""
    trace, lines = error.__traceback__, []
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/twostage/" in code.co_filename or "/detectron2/" in code.co_filename:
            lines.append(f"{'/'.join(code.co_filename.split('/')[-2:])}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " at " + " < ".join(lines[::-1][:3])


@contextlib.contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def ring(_number: int, _frame: object) -> None:
        raise WrongResultError(f"hangs for {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
