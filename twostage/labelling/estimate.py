"""What a run would take, from a few of its pictures."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from twostage.errors import UserError
from twostage.labelling.labeller import Labeller
from twostage.labelling.progress import duration
from twostage.labelling.shards import Output
from twostage.labelling.units import Item, Unit

PICTURES = 20


class Estimate(NamedTuple):
    """Of a whole run.

    Attributes:
        pictures, measured, broken: in the source; those that were labelled for this; those of them that can't be read.
        seconds: per picture and process.
        bytes: on disk per picture.
        counted: whether the number of pictures is exact; in tar shards it is guessed from their sizes.
    """

    pictures: int
    measured: int
    broken: int
    seconds: float
    bytes: float
    counted: bool = True

    def lines(self, processes: int) -> str:
        """Two lines for people."""
        hours = self.pictures * self.seconds / processes
        about = "" if self.counted else "about "
        return (
            f"{about}{self.pictures:,} pictures; of {self.measured} tried, {self.broken} can't be read\n"
            f"{self.seconds:.3f} s a picture and process: {duration(hours)} by {processes} process(es); "
            f"{self.bytes / 1024:.1f} KiB a picture: {self.pictures * self.bytes / 2**30:.2f} GiB on disk"
        )


def estimate(labeller: Labeller, units: Sequence[Unit], formats: Sequence[str]) -> Estimate:
    """Label about twenty pictures of all parts of the source into a folder that goes again, after one to warm up.

    Raises:
        UserError: there are none.
    """
    items = _spread(units)
    if not items:
        raise UserError("the parts of the source that were tried hold no pictures")
    for _ in labeller(items[:1]):
        pass
    start = time.perf_counter()
    rows = list(labeller(items))
    seconds = (time.perf_counter() - start) / len(items)
    with tempfile.TemporaryDirectory() as folder:
        counts = Output(Path(folder), formats).write(0, rows, labeller.words)
    return Estimate(
        pictures=sum(map(len, units)),
        measured=len(items),
        broken=counts["broken"],
        seconds=seconds,
        bytes=counts["bytes"] / len(items),
        counted=all(unit.counted for unit in units),
    )


def _spread(units: Sequence[Unit]) -> list[Item]:
    """The first pictures of units that lie evenly over the source; more of each where there are few units."""
    chosen = [units[i] for i in sorted({round(j * (len(units) - 1) / (PICTURES - 1)) for j in range(PICTURES)})]
    each = -(-PICTURES // len(chosen))
    parts: Iterator[Iterator[Item]] = (itertools.islice(unit.items(), each) for unit in chosen)
    return list(itertools.islice(itertools.chain.from_iterable(parts), PICTURES))
