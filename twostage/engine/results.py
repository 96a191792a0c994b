"""The results of `Trainer.test` as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twostage.evaluation import results_table


def evaluation_table(datasets: Sequence[str], results: Mapping[str, Any]) -> str:
    """Markdown table of the headline figures, a row per test set.

    Args:
        datasets: DATASETS.TEST.
        results: as `Trainer.test` returns them, with or without the level of data sets.
    """
    by_dataset = {datasets[0]: results} if len(datasets) == 1 else results
    rows = []
    for name, tasks in by_dataset.items():
        rows.append((name, {metric: value for figures in tasks.values() for metric, value in figures.items()}))
    return results_table(rows)
