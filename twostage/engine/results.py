"""Evaluation results as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate


def results_table(datasets: Sequence[str], results: Mapping[str, Any]) -> str:
    """Markdown table with a row per test set and a column per summary metric.

    Args:
        datasets: DATASETS.TEST.
        results: as `Trainer.test` returns them. Per-class metrics, named "IoU-cat" and so on, are left out.
    """
    by_dataset = {datasets[0]: results} if len(datasets) == 1 else results
    rows = []
    for name, tasks in by_dataset.items():
        metrics = {metric: value for task in tasks.values() for metric, value in task.items() if "-" not in metric}
        rows.append({"dataset": name} | {m: "-" if math.isnan(v) else f"{v:.2f}" for m, v in metrics.items()})
    return tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)
