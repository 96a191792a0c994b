"""Published figures beside our own (`published.json`: only those with a known source and high confidence)."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

# Our figure for each rule of the mean (`twostage.evaluation.metrics`).
RULES = {"gt-present": "mIoU", "pred-or-gt": "mIoU-pred-or-gt"}


@dataclass(frozen=True, kw_only=True)
class PublishedSystem:
    """What is printed about one system.

    Attributes:
        train: dataset it was trained on.
        rule: "gt-present" or "pred-or-gt", None where the source does not say.
        miou: the papers' name of a benchmark ("A-150") -> mIoU in percent.
        pq: likewise panoptic quality.
        source: where the figures stand.
    """

    system: str
    variant: str
    train: str
    rule: str | None
    miou: Mapping[str, float]
    source: str
    pq: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@functools.cache
def published_systems() -> tuple[PublishedSystem, ...]:
    """All entries, in the file's order."""
    content = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    return tuple(PublishedSystem(**entry) for entry in content["systems"])


def comparison_table(name: str, records: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table of mIoU in percent: our figures by both rules, then the published systems.

    Args:
        name: of our system.
        records: the papers' name of a benchmark -> content of the results file. Other benchmarks get no column; "" is
            returned where none is left.
    """
    known = {column for system in published_systems() for column in system.miou}
    columns = [column for column in records if column in known]
    ours = [([rule], [records[column]["figures"].get(key) for column in columns]) for rule, key in RULES.items()]
    theirs = [(entry, [entry.rule or "not stated"], entry.miou) for entry in published_systems()]
    return _table(name, ["rule"], columns, ours, theirs)


def panoptic_comparison(name: str, records: Mapping[str, Mapping[str, Any]]) -> str:
    """The same of panoptic quality over all classes; "" where it was not measured on a benchmark of the papers."""
    known = {column for system in published_systems() for column in system.pq}
    columns = [column for column in records if column in known and records[column]["figures"].get("PQ") is not None]
    ours: list[_Ours] = [([], [records[column]["figures"]["PQ"] for column in columns])]
    return _table(name, [], columns, ours, [(entry, [], entry.pq) for entry in published_systems()])


# Further cells and figures of a row.
_Ours = tuple[list[str], list[float | None]]
_Theirs = tuple[PublishedSystem, list[str], Mapping[str, float]]


def _table(
    name: str, further: list[str], columns: Sequence[str], ours: Sequence[_Ours], theirs: Sequence[_Theirs]
) -> str:
    """Markdown: our rows, then those of the published systems that have a figure in one of the `columns`."""
    if not columns:
        return ""
    rows = []
    for cells, figures in ours:
        rows.append([f"**{name}**", "", "", *cells, *(_percent(v, digits=2) for v in figures), "this evaluation"])
    for entry, cells, published in theirs:
        values = [_percent(published.get(column), digits=1) for column in columns]
        if any(value != "-" for value in values):
            rows.append([entry.system, entry.variant, entry.train, *cells, *values, entry.source])
    headers = ["system", "variant", "trained on", *further, *columns, "source"]
    align = ["left"] * (3 + len(further)) + ["right"] * len(columns) + ["left"]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=align)


def notes(columns: Sequence[str]) -> list[str]:
    """What is to be known about the published figures of these benchmarks, a sentence each."""
    shown = [entry for entry in published_systems() if entry.note and any(c in entry.miou for c in columns)]
    return [f"{entry.system}, {entry.variant}: {entry.note}" for entry in shown]


def _percent(value: float | None, *, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
