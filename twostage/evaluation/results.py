"""Results on disk and in tables: one JSON per evaluation, written atomically and free of NaN; Markdown rows."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import torch

import twostage
from twostage.files import write_text
from twostage.machine import peak_resident_memory

# What a results table shows, in this order, and its headings.
HEADLINE = {
    "mIoU": "mIoU",
    "mIoU-seen": "seen mIoU",
    "mIoU-unseen": "unseen mIoU",
    "mIoU-harmonic": "harmonic mean",
    "fwIoU": "fwIoU",
    "mACC": "mACC",
    "pACC": "pACC",
    "mIoU-pred-or-gt": "mIoU (pred or gt)",
    "boundary-mIoU": "boundary mIoU",
    "mIoU-single": "single-query mIoU",
    "mIoU-single-seen": "seen single-query mIoU",
    "mIoU-single-unseen": "unseen single-query mIoU",
    "PQ": "PQ",
    "SQ": "SQ",
    "RQ": "RQ",
}

# Panoptic quality is given for groups of classes; what its keys end in, and what the groups are called.
PANOPTIC_GROUPS = {"": "all", "_th": "things", "_st": "stuff", "-seen": "seen", "-unseen": "unseen"}
_PANOPTIC = ("PQ", "SQ", "RQ")


def versions() -> dict[str, str]:
    """Versions of what produced a result."""
    return {
        "twostage": twostage.__version__,
        "detectron2": str(detectron2.__version__),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def peak_memory() -> dict[str, float]:
    """Peak of this process so far in MiB: resident memory, and what torch held on the GPU (0 without one)."""
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "peak_rss_mib": round(peak_resident_memory() / 2**20, 1),
        "peak_gpu_mib": round(gpu / 2**20, 1),
    }


def text_hash(text: str) -> str:
    """sha256 of a text in hex: names a config or a class list."""
    return hashlib.sha256(text.encode()).hexdigest()


def without_nan(value: Any) -> Any:
    """`value` with numpy scalars as Python's and every NaN or infinity as None, through lists and mappings."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [without_nan(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` atomically as JSON; NaN and infinity become null."""
    write_text(path, json.dumps(without_nan(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def results_table(rows: Sequence[tuple[str, Mapping[str, float | None]]]) -> str:
    """A Markdown table, one row per (name, figures in percent as the evaluator returns them).

    Only headline figures (`HEADLINE`) that at least one row has get a column; a figure that a row lacks shows as "-".

    Example:
        >>> print(results_table([("SAN", {"mIoU": 41.236}), ("MaskCLIP", {"mIoU": 20.0})]))
        |          |  mIoU |
        |----------|------:|
        | SAN      | 41.24 |
        | MaskCLIP | 20.00 |
    """
    keys = [key for key in HEADLINE if any(figures.get(key) is not None for _, figures in rows)]
    cells = [["", *(HEADLINE[key] for key in keys)]]
    for name, figures in rows:
        values = [figures.get(key) for key in keys]
        cells.append([name.replace("|", "\\|"), *("-" if v is None else f"{v:.2f}" for v in values)])
    widths = [max(len(row[i]) for row in cells) for i in range(len(keys) + 1)]
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    lines = [
        "| "
        + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in cells
    ]
    return "\n".join([lines[0], rule, *lines[1:]])


def shown_figures(figures: Mapping[str, float]) -> dict[str, float | None]:
    """The figures that tables and reports show: all of `HEADLINE` (None without a meaning), panoptic ones as there are."""
    panoptic = [f"{key}{group}" for group in PANOPTIC_GROUPS for key in _PANOPTIC]
    return {key: figures.get(key) for key in HEADLINE} | {key: figures[key] for key in panoptic if key in figures}


def panoptic_rows(figures: Mapping[str, float | None]) -> list[tuple[str, list[float]]]:
    """(group, [PQ, SQ, RQ] in percent) of every group of classes that was measured."""
    rows = []
    for group, name in PANOPTIC_GROUPS.items():
        values = [value for key in _PANOPTIC if (value := figures.get(f"{key}{group}")) is not None]
        if len(values) == len(_PANOPTIC):
            rows.append((name, values))
    return rows


def tables(rows: Sequence[tuple[str, Mapping[str, float | None]]]) -> str:
    """The results table and, where panoptic quality was measured, its table by groups of classes, both in Markdown."""
    panoptic = [(name, group, values) for name, figures in rows for group, values in panoptic_rows(figures)]
    if not panoptic:
        return results_table(rows)
    lines = [f"| {name} | {group} | {' | '.join(f'{v:.2f}' for v in values)} |" for name, group, values in panoptic]
    head = ["| panoptic quality | classes | PQ | SQ | RQ |", "|---|---|---:|---:|---:|"]
    return "\n".join([results_table(rows), "", *head, *lines])
