"""Ratios of a run, stored to be held against those of a later version: seconds differ between machines, ratios hardly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twostage.errors import UserError
from twostage.files import write_text

# What is worse when it grows: "150 classes, decode / trunk" -> ratio of processor times.
Ratios = Mapping[str, float]

# Of a step that takes next to nothing, any multiple is next to nothing.
_NOISE = 0.01


def store(path: Path, setting: Mapping[str, Any], ratios: Ratios) -> None:
    """Write the ratios of a run and the setting they belong to. Raises UserError where that is not possible."""
    content = {"setting": dict(setting), "ratios": {name: round(value, 3) for name, value in ratios.items()}}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_stored(path: Path, setting: Mapping[str, Any]) -> dict[str, float]:
    """The ratios that `store` wrote, to be read before anything is measured.

    Raises:
        UserError: no such file, another content, or one of another setting.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stored = {str(name): float(value) for name, value in content["ratios"].items()}
        before = dict(content["setting"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is no file of ratios ({error}); write one by --write-ratios") from error
    for name, value in before.items():
        if setting.get(name) != value:
            raise UserError(
                f"'{path}' was measured with {name} {value}, this run has {setting.get(name)}; use the same"
            )
    return stored


def regressions(stored: Ratios, ratios: Ratios, tolerance: float) -> list[str]:
    """One line per ratio that is more than `tolerance` (a share) above the stored one.

    Raises:
        UserError: a stored ratio that was not measured.
    """
    missing = [name for name in stored if name not in ratios]
    if missing:
        raise UserError(f"the stored ratios have {missing[0]!r}, which this run does not have; write them anew")
    return [
        f"{name}: {ratios[name]:.2f}, was {value:.2f}"
        for name, value in stored.items()
        if ratios[name] > value * (1 + tolerance) + _NOISE
    ]
