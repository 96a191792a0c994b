"""Runs many small conversions: in parallel, with a progress bar, going on where a stopped run was."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from twostage.errors import UserError
from twostage.files import atomic_path

T = TypeVar("T")
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Job:
    """One label map to be made.

    Attributes:
        source: the original file.
        target: the label map to write.
        content: what the conversion needs besides the file.
    """

    source: Path
    target: Path
    content: Any = None


# Writes the job's target; False where there is nothing to be written (only ignored pixels are left).
Convert = Callable[[Job], bool]


@dataclasses.dataclass
class Report:
    """What became of the jobs of one split.

    Attributes:
        written, kept: label maps made now, and found from an earlier run.
        left_out: originals of which only ignored pixels would be left.
        broken: one line for each original that could not be converted.
        panoptic: the same of the panoptic labels, where the split has them.
    """

    written: int = 0
    kept: int = 0
    left_out: int = 0
    broken: list[str] = dataclasses.field(default_factory=list)
    panoptic: Report | None = None


def run_jobs(jobs: Sequence[Job], convert: Convert, *, workers: int, title: str, skip_broken: bool = False) -> Report:
    """Convert all jobs whose target does not exist yet.

    Raises:
        UserError: an original is broken (with `skip_broken` it is counted and listed instead).
    """
    todo = [job for job in jobs if not job.target.is_file()]
    report = Report(kept=len(jobs) - len(todo))
    for folder in {job.target.parent for job in todo}:
        with _readable_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(
        parallel(partial(_attempt, convert=convert), todo, workers=workers, title=title)
    ) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, str):
                if not skip_broken:
                    raise UserError(f"{outcome}; repair it, or leave such files out by --skip-broken")
                report.broken.append(outcome)
            elif outcome:
                report.written += 1
            else:
                report.left_out += 1
    return report


def _attempt(job: Job, *, convert: Convert) -> bool | str:
    """What `convert` says, or the text of a UserError, so that one broken file does not stop the others."""
    try:
        return convert(job)
    except UserError as error:
        return str(error)


def parallel(
    function: Callable[[Item], T], items: Sequence[Item], *, workers: int, title: str
) -> Generator[T, None, None]:
    """`function` of every item, in any order, in `workers` threads, with a progress bar.

    Threads, because nearly all of the time is spent in decoding and encoding, which leave Python's lock, and processes
    would first have to import torch.
    """
    pool = ThreadPool(max(1, workers))
    try:
        yield from tqdm(pool.imap_unordered(function, items), total=len(items), desc=title, unit="file")
    finally:
        # Whoever leaves (an error, SIGTERM) waits for the files at work: they would be left half-written.
        pool.terminate()
        pool.join()


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Write uint8 or uint16 `[H, W]` as PNG of that width, whole or not at all."""
    with atomic_path(path, durable=False) as temporary:
        Image.fromarray(labels).save(temporary, format="PNG")


@contextlib.contextmanager
def _readable_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"folder '{folder}' can't be made ({error.strerror}); set DETECTRON2_DATASETS to a folder you can write to"
        ) from error
