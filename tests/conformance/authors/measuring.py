"""What both sides cost, taking turns, and how far their results agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from conformance.authors.sides import Picture, Side, Step
from twostage.benchmark.cost import added_memory, median
from twostage.benchmark.turns import ratio, take_turns
from twostage.errors import UserError

_MIB = 2**20


def measure(sides: Mapping[str, Side], turns: int) -> dict[str, Any]:
    """Costs of one or both of "ours" and "theirs"; with both their ratios, theirs over ours, and how they agree.

    Each side runs once before anything is timed; that run gives what is compared.

    Raises:
        UserError: a side needs more memory than there is; and as `agreement`.
    """
    results = {name: _result(name, side) for name, side in sides.items()}
    told = {name: _told(result) for name, result in results.items()}
    agreed = agreement(results["ours"], results["theirs"]) if len(sides) == 2 else {}
    # Scores of many classes are large.
    del results
    costs = dict(zip(sides, take_turns([{"whole": side.run} for side in sides.values()], turns), strict=True))
    row: dict[str, Any] = {
        "sides": {
            name: {
                **vars(median(costs[name]["whole"])),
                "turns": [vars(cost) for cost in costs[name]["whole"]],
                "added": added_memory(side.run),
                **told[name],
            }
            for name, side in sides.items()
        }
    }
    if len(sides) == 2:
        pair = (costs["ours"]["whole"], costs["theirs"]["whole"])
        row["ratios"] = {figure: vars(ratio(*pair, figure)) for figure in ("processor", "wall")}
    return row | agreed


def _result(name: str, side: Side) -> Picture | Step:
    try:
        return side.result()
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise UserError(
            f"there is not enough memory for {name}; try a smaller --size or --training, or --alone {name}"
        ) from error


def agreement(ours: Picture | Step, theirs: Picture | Step) -> dict[str, float]:
    """Of pictures the share of equal labels and the largest difference of a score, relative to the largest of theirs.

    Of steps how far loss and gradient norm lie apart, relative to theirs.

    Raises:
        UserError: pictures of another size or number of classes.
    """
    if isinstance(ours, Step) and isinstance(theirs, Step):
        return {
            "loss apart": _apart(ours.loss, theirs.loss),
            "gradient norm apart": _apart(ours.gradient, theirs.gradient),
        }
    assert isinstance(ours, Picture) and isinstance(theirs, Picture)
    if ours.scores.shape != theirs.scores.shape:
        raise UserError(
            f"our scores are {tuple(ours.scores.shape)}, the authors' {tuple(theirs.scores.shape)}; compare the settings"
        )
    return {
        "equal labels": float((ours.labels == theirs.labels).double().mean()),
        "scores apart": float((ours.scores - theirs.scores).abs().max() / theirs.scores.abs().max()),
    }


def _apart(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1e-30)


def _told(result: Picture | Step) -> dict[str, float]:
    """Of one side's result: a label map of one class everywhere would agree by chance."""
    if isinstance(result, Step):
        return {"loss": result.loss, "gradient norm": result.gradient}
    return {"classes in the label map": len(result.labels.unique())}


# What a row tells besides costs -> how it is written.
_AGREEMENT = {"equal labels": ".3%", "scores apart": ".1e", "loss apart": ".1e", "gradient norm apart": ".1e"}
_OF_SIDE = {"classes in the label map": "d", "loss": ".8g", "gradient norm": ".8g"}


def table(row: dict[str, Any]) -> str:
    """A row of `measure` as a table, a line for each figure."""
    lines: list[tuple[str, str]] = [("classes", str(row["classes"]))]
    for name, side in row["sides"].items():
        lines += [
            (f"{name}, processor s", f"{side['processor']:.2f}"),
            (f"{name}, wall s", f"{side['wall']:.2f}"),
            (f"{name} adds MiB", f"{side['added'] / _MIB:,.0f}"),
        ]
    for figure, found in row.get("ratios", {}).items():
        lines.append((f"theirs / ours, {figure}", "{median:.2f} ({low:.2f}-{high:.2f})".format(**found)))
    for name, form in _OF_SIDE.items():
        values = [format(side[name], form) for side in row["sides"].values() if name in side]
        lines += [(name, ", ".join(values))] if values else []
    lines += [(name, format(row[name], form)) for name, form in _AGREEMENT.items() if name in row]
    return tabulate(lines, disable_numparse=True)
