"""The results of `Trainer.test` as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twostage.evaluation.results import tables


def evaluation_table(datasets: Sequence[str], results: Mapping[str, Any]) -> str:
    """Markdown tables of the headline figures, a row per test set (of panoptic quality, a row per group of classes).

    Args:
        datasets: DATASETS.TEST.
        results: as `Trainer.test` returns them, with or without the level of datasets.
    """
    by_dataset = {datasets[0]: results} if len(datasets) == 1 else results
    rows = []
    for name, tasks in by_dataset.items():
        rows.append((name, {metric: value for figures in tasks.values() for metric, value in figures.items()}))
    return tables(rows)
