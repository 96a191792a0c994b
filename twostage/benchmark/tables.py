"""The benchmark's tables: of one system, or of two that took turns."""

from __future__ import annotations

import math
from typing import Any

from tabulate import tabulate

from twostage.benchmark.names import NAMES

_HEADERS = (
    "trunk s", "encode s", "decode s", "label map s", "whole s", "whole / trunk", "text, first s", "peak GiB"
)  # fmt: skip
_MIB = 2**20
# Of the figures that `_shown` gives.
_FORMATS = (".3f", ".3f", ",.0f", ",.0f")


def print_single(rows: list[dict[str, Any]], rate: float, *, random_text: bool) -> dict[str, float]:
    """The tables of one system; its ratios are processor times of steps over the trunk's, or over the whole's without one.

    Args:
        rate: operations per second of `best_rate`.
    """
    table, costs, parts, ratios = [], [], [], {}
    for row in rows:
        (system,) = row["systems"].values()
        steps = system["steps"]
        walls = [steps[name]["wall"] if name in steps else math.nan for name in NAMES]
        text = math.nan if random_text else system["text"]
        table.append([row["classes"], *walls, walls[-1] / walls[0], text, row["peak"] / 2**30])
        parts.append({"classes": row["classes"], **system["parts"]})
        base = "trunk" if "trunk" in steps else "whole"
        for name, figures in steps.items():
            arithmetic = figures["operations"] / rate / max(figures["processor"], 1e-9)
            costs.append([row["classes"], name, *_shown(figures), figures["operations"] / 1e9, arithmetic])
            if name != base:
                key = f"{row['classes']} classes, {name} / {base}"
                ratios[key] = figures["processor"] / max(steps[base]["processor"], 1e-9)
    # A training step has no other step beside it.
    if "label map" in steps:
        print(tabulate(table, headers=["classes", *_HEADERS], floatfmt=".3f"))
        print("\nseconds in the parts that the system names:")
        print(tabulate(parts, headers="keys", floatfmt=".3f"))
    print(
        f"\nwhat each step costs; the last column is the share of its time that arithmetic takes at {rate / 1e9:.0f} GFLOPS,"
    )
    print("which is what two large matrices are multiplied at:")
    headers = ["", "step", "wall s", "processor s", "page faults", "added MiB", "GFLOP", "arithmetic"]
    print(tabulate(costs, headers=headers, floatfmt=".3f"))
    return ratios


def print_pair(rows: list[dict[str, Any]], labels: list[str]) -> dict[str, float]:
    """The table of two systems that took turns; its ratios are the second's processor times over the first's."""
    table, ratios = [], {}
    for row in rows:
        both = [row["systems"][label]["steps"] for label in labels]
        for name, found in row["ratios"].items():
            wall, processor = ("{median:.2f} ({low:.2f}-{high:.2f})".format(**found[k]) for k in ("wall", "processor"))
            shown = zip(_FORMATS, *(_shown(steps[name]) for steps in both), strict=True)
            pair = [f"{first:{form}} / {second:{form}}" for form, first, second in shown]
            table.append([row["classes"], name, *pair, wall, processor])
            ratios[f"{row['classes']} classes, {name}"] = found["processor"]["median"]
    print(f"{labels[0]} / {labels[1]}, and the second over the first: median over the turns, lowest and highest")
    headers = ["classes", "step", "wall s", "processor s", "page faults", "added MiB", "wall ratio", "processor ratio"]
    print(tabulate(table, headers=headers))
    for row in rows:
        if "agree" not in row:
            continue
        print(f"{row['classes']} classes: both label {row['agree']:.2%} of the pixels alike")
    return ratios


def _shown(figures: dict[str, float]) -> list[float]:
    return [figures["wall"], figures["processor"], figures["faults"], figures["added"] / _MIB]
