"""Contenders take turns in one process, so that a slow moment of the machine hits all; their ratios and spread."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twostage.benchmark.cost import Cost, measured


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The second contender's cost over the first one's: the median over the turns, the lowest and the highest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def take_turns(contenders: Sequence[Mapping[str, Callable[[], Any]]], repeats: int) -> list[dict[str, list[Cost]]]:
    """Costs per contender, step and turn. Each step is timed for all contenders, one right after another, in both orders."""
    costs: list[dict[str, list[Cost]]] = [{name: [] for name in runs} for runs in contenders]
    names = list(dict.fromkeys(name for runs in contenders for name in runs))
    for turn in range(repeats):
        order = range(len(contenders))
        for name in names:
            for place in order if turn % 2 == 0 else reversed(order):
                run = contenders[place].get(name)
                if run is not None:
                    costs[place][name].append(measured(run))
    return costs


def ratio(first: Sequence[Cost], second: Sequence[Cost], figure: str) -> Ratio:
    """Of `figure` ("wall" or "processor"), turn by turn."""
    values = [
        getattr(mine, figure) / max(getattr(theirs, figure), 1e-9) for theirs, mine in zip(first, second, strict=True)
    ]
    return Ratio(statistics.median(values), min(values), max(values))
