"""Results as text, as flat dicts, and checked against expectations."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Mapping[str, float]]) -> None:
    """Log three lines per task, to be copied into tables: task, names and values of its summary metrics."""
    for task, metrics in results.items():
        # Metrics with a dash in their names are those of single classes.
        summary = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(summary))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in summary.values()))


def verify_results(cfg: CfgNode, results: Mapping[str, Mapping[str, float]]) -> bool:
    """Compare with `cfg.TEST.EXPECTED_RESULTS`; a result off by more than its tolerance ends the process with status 1."""
    good = True
    for task, metric, expected, tolerance in cfg.TEST.EXPECTED_RESULTS:
        actual = results.get(task, {}).get(metric)
        if actual is None or not np.isfinite(actual) or abs(actual - expected) > tolerance:
            logger.error(
                "Result verification failed: %s/%s is %s, expected %s +- %s", task, metric, actual, expected, tolerance
            )
            good = False
    if not good:
        sys.exit(1)
    if len(cfg.TEST.EXPECTED_RESULTS):
        logger.info("Results verification passed.")
    return good


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts to one with keys "task/metric"."""
    flat: dict[str, Any] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{inner}": number for inner, number in flatten_results_dict(value).items()})
        else:
            flat[key] = value
    return flat
