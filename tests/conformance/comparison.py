"""What comes of comparing one array or figure of a reference case with ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate
from torch import Tensor

# A case matches when every array agrees to the first and the final argmax to the second. Training losses choose points by
# a top-k that can flip between near ties; gradients add that up.
RELATIVE_TOLERANCE = 1e-4
ARGMAX_TOLERANCE = 0.999
LOSS_TOLERANCE = 5e-4
GRADIENT_TOLERANCE = 2e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One array of a case against ours; where `own`, two results of ours against each other."""

    name: str
    shape: tuple[int, ...] = ()
    difference: float
    relative: float
    passed: bool
    note: str = ""
    own: bool = False


def compare_number(
    name: str, ours: float, wanted: float, tolerance: float = LOSS_TOLERANCE, *, scale: float | None = None
) -> Comparison:
    """A single figure; differences are relative to `scale`, by default the figure itself."""
    difference = abs(ours - wanted)
    scale = abs(wanted) if scale is None else scale
    relative = difference / scale if scale else difference
    # Written so that NaN fails.
    return Comparison(name=name, difference=difference, relative=relative, passed=relative <= tolerance)


def compare_sets(name: str, ours: Mapping[str, Any], wanted: Mapping[str, Any]) -> Comparison:
    """Equality of two name -> value tables, such as the trainable parameters with their optimizer settings."""
    wrong = sorted(k for k in {*ours, *wanted} if ours.get(k) != wanted.get(k))
    note = f"{len(wanted)} entries" if not wrong else f"{len(wrong)} differ, first {wrong[0]}"
    return _exact(name, len(wrong), (len(wanted),), note)


def compare_names(name: str, ours: Any, wanted: Any) -> Comparison:
    """Equality of two sets of names."""
    return compare_sets(name, dict.fromkeys(ours, True), dict.fromkeys(wanted, True))


def compare_equal(name: str, ours: Any, wanted: Any) -> Comparison:
    """Equality of two values of any kind."""
    same = ours == wanted
    return _exact(name, not same, (), "" if same else f"ours {ours!r}, the case's {wanted!r}"[:100])


def _exact(name: str, wrong: float, shape: tuple[int, ...], note: str) -> Comparison:
    return Comparison(
        name=name, shape=shape, difference=float(wrong), relative=float(wrong), passed=not wrong, note=note
    )


def compare_labels(name: str, ours: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> Comparison:
    """Label maps `[H, W]` of ours that are made in two ways and must be the same but for ties."""
    differ = float((ours != wanted).float().mean())
    return Comparison(
        name=name, shape=tuple(wanted.shape), difference=differ, relative=differ, passed=differ <= tolerance, own=True
    )


def format_comparisons(rows: list[Comparison]) -> str:
    """A table, one line per array."""
    body = [
        [
            "ok" if r.passed else "FAIL",
            r.name,
            "x".join(map(str, r.shape)),
            f"{r.difference:.2e}",
            f"{r.relative:.2e}",
            r.note,
        ]
        for r in rows
    ]
    return tabulate(body, headers=["", "array", "shape", "max |diff|", "relative", ""], disable_numparse=True)
