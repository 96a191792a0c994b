"""How time and memory grow with classes and with the picture, drawn from what `tools/benchmark.py --json` wrote."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from twostage.errors import UserError
from twostage.files import atomic_path


class Point(NamedTuple):
    """One system at one number of classes on one picture: processor seconds of the whole, and MiB that it adds at most."""

    classes: int
    megapixels: float
    seconds: float
    added: float


def read_points(files: Sequence[Path]) -> dict[str, list[Point]]:
    """Points of each system in these files.

    Raises:
        UserError: a file that is missing or was not written by `--json`.
    """
    found: dict[str, list[Point]] = defaultdict(list)
    for path in files:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            height, width = (int(side) for side in content["setting"]["size"].split("x"))
            for row in content["rows"]:
                for name, system in row["systems"].items():
                    whole = system["steps"]["whole"]
                    found[name].append(
                        Point(int(row["classes"]), height * width / 1e6, whole["processor"], whole["added"] / 2**20)
                    )
        except OSError as error:
            raise UserError(
                f"'{path}' can't be read: {error.strerror}; write it by tools/benchmark.py --json"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"'{path}' is not what tools/benchmark.py --json writes; write it anew") from error
    return dict(found)


def draw_growth(points: dict[str, list[Point]], output: Path) -> None:
    """A picture of four charts: seconds and added memory by classes (at the picture that has most of these), and by pixels.

    Raises:
        UserError: no system was measured at two numbers of classes or on two pictures.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    drawn = 0
    for index, (name, of_system) in enumerate(sorted(points.items())):
        for column, (x, fixed) in enumerate((("classes", "megapixels"), ("megapixels", "classes"))):
            line = longest_line(of_system, x, fixed)
            if len(line) < 2:
                continue
            drawn += 1
            for row, y in enumerate(("seconds", "added")):
                xs, ys = ([getattr(point, key) for point in line] for key in (x, y))
                axes[row][column].plot(xs, ys, marker="o", color=f"C{index}", label=name)
    if not drawn:
        pyplot.close(figure)
        raise UserError("no system has two numbers of classes or two pictures in these files; measure more")
    _label(axes)
    _add_legend(figure, axes)
    with atomic_path(output) as path:
        figure.savefig(path, format="png", dpi=110)
    pyplot.close(figure)


def longest_line(points: Sequence[Point], x: str, fixed: str) -> list[Point]:
    """The most points that differ in `x` alone, in its order; the last of equals."""
    lines: dict[Any, dict[Any, Point]] = defaultdict(dict)
    for point in points:
        lines[getattr(point, fixed)][getattr(point, x)] = point
    return [point for _, point in sorted(max(lines.values(), key=len).items())]


def _label(axes: Any) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    for row, y in enumerate(("processor seconds a picture", "added memory, MiB")):
        for column, x in enumerate(("classes", "megapixels")):
            chart = axes[row][column]
            chart.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
            measured = sorted({value for line in chart.get_lines() for value in line.get_xdata()})
            for axis, ticks in ((chart.xaxis, FixedLocator(measured)), (chart.yaxis, LogLocator(subs=(1, 2, 5)))):
                axis.set_major_locator(ticks)
                axis.set_major_formatter(FuncFormatter(lambda value, _position: f"{float(f'{value:.3g}'):,g}"))
                axis.set_minor_formatter(NullFormatter())
            chart.grid(visible=True, which="major", alpha=0.3)


def _add_legend(figure: Any, axes: Any) -> None:
    """One for all charts, below them."""
    lines = {name: line for chart in axes.flat for line, name in zip(*chart.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines))
