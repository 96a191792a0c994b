"""Published figures beside our own, in Markdown. Whose figures, the caller says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from twostage.evaluation.figures import PublishedFigures

# Our figure for each rule of the mean (`twostage.evaluation.metrics`).
RULES = {"gt-present": "mIoU", "pred-or-gt": "mIoU-pred-or-gt"}


def comparison_table(name: str, records: Mapping[str, Mapping[str, Any]], published: Sequence[PublishedFigures]) -> str:
    """A Markdown table of mIoU in percent: our figures by both rules, then the published systems that are asked for classes
    of datasets they were not trained on.

    Args:
        name: of our system.
        records: the papers' name of a benchmark -> content of the results file. Other benchmarks get no column; "" is
            returned where none is left.
        published: of any setting.
    """
    published = _transfer(published)
    known = {column for entry in published for column in entry.miou}
    columns = [column for column in records if column in known]
    ours = [([rule], [records[column]["figures"].get(key) for column in columns]) for rule, key in RULES.items()]
    theirs: list[_Theirs] = [(entry, [entry.rule or "not stated"], entry.miou) for entry in published]
    return _table(name, ["rule"], columns, ours, theirs)


def panoptic_comparison(
    name: str, records: Mapping[str, Mapping[str, Any]], published: Sequence[PublishedFigures]
) -> str:
    """The same of panoptic quality over all classes; "" where it was not measured on a benchmark of the papers."""
    published = _transfer(published)
    known = {column for entry in published for column in entry.pq}
    columns = [column for column in records if column in known and records[column]["figures"].get("PQ") is not None]
    ours: list[_Ours] = [([], [records[column]["figures"]["PQ"] for column in columns])]
    return _table(name, [], columns, ours, [(entry, [], entry.pq) for entry in published])


def notes(columns: Sequence[str], published: Sequence[PublishedFigures]) -> list[str]:
    """What is to be known about the published figures of these benchmarks, a sentence each."""
    shown = [entry for entry in _transfer(published) if entry.note and any(c in entry.miou for c in columns)]
    return [f"{entry.system}, {entry.variant}: {entry.note}" for entry in shown]


def _transfer(published: Sequence[PublishedFigures]) -> list[PublishedFigures]:
    return [entry for entry in published if entry.setting == "transfer"]


# Further cells and figures of a row.
_Ours = tuple[list[str], list[float | None]]
_Theirs = tuple[PublishedFigures, list[str], Mapping[str, float]]


def _table(
    name: str, further: list[str], columns: Sequence[str], ours: Sequence[_Ours], theirs: Sequence[_Theirs]
) -> str:
    """Markdown: our rows, then those of the published systems that have a figure in one of the `columns`."""
    if not columns:
        return ""
    rows = []
    for cells, figures in ours:
        rows.append([f"**{name}**", "", "", *cells, *(_percent(v, digits=2) for v in figures), "this evaluation"])
    for entry, cells, figures_of in theirs:
        values = [_percent(figures_of.get(column), digits=1) for column in columns]
        if any(value != "-" for value in values):
            rows.append([entry.system, entry.variant, entry.train, *cells, *values, entry.source])
    headers = ["system", "variant", "trained on", *further, *columns, "source"]
    align = ["left"] * (3 + len(further)) + ["right"] * len(columns) + ["left"]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=align)


def _percent(value: float | None, *, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
