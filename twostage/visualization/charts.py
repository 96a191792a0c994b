"""Line charts as inline SVG that take their colours from the page, so that they suit light and dark."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup, escape

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 34
# Colours of the series are the page's classes s0 .. s5.
_SERIES_COLORS = 6


def read_metrics(path: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Curves in Detectron2's metrics.json (one JSON object per line): name -> [(iteration, value), ...] ascending.

    A line that a killed run left incomplete is skipped; a later line for the same iteration replaces the earlier one.
    """
    curves: dict[str, dict[int, float]] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        iteration = int(record.pop("iteration", 0))
        for name, value in record.items():
            if isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(name, {})[iteration] = float(value)
    return {name: sorted(points.items()) for name, points in curves.items()}


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) from `low` to `high`.

    >>> ticks(0, 10)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / count))
    step *= min((1, 2, 5, 10), key=lambda m: abs(span / (step * m) - count))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def line_chart(series: Mapping[str, Points], *, label: str, x_label: str = "iteration") -> Markup:
    """An SVG chart with axes from zero, grid and one line per series, and its key below.

    Args:
        series: name -> points (x, y), x ascending; empty ones are left out.
        label: what the chart shows, for readers that don't see it.
        x_label: name of the x axis.
    """
    shown = {name: points for name, points in series.items() if points}
    if not shown:
        return Markup("")
    xs = [x for points in shown.values() for x, _ in points]
    ys = [y for points in shown.values() for _, y in points]
    left, right = min(xs), max(max(xs), min(xs) + 1)
    bottom, top = min(0.0, min(ys)), max(ys) * 1.05 or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        return across, _TOP + (top - y) / (top - bottom) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">']
    for value in ticks(bottom, top):
        y = place(left, value)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in ticks(left, right, 6):
        x = place(value, bottom)[0]
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}" text-anchor="end">{escape(x_label)}</text>')
    for i, points in enumerate(shown.values()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        shape = f'<polyline class="line s{i % _SERIES_COLORS}" points="{path}"/>'
        if len(points) == 1:
            x, y = place(*points[0])
            shape = f'<circle class="dot s{i % _SERIES_COLORS}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        parts.append(shape)
    parts.append("</svg>")
    return Markup("".join(parts)) + _key(shown)


def _key(shown: Mapping[str, Points]) -> Markup:
    entries = [
        f'<span><i class="key s{i % _SERIES_COLORS}"></i>{escape(name)} <b>{points[-1][1]:.3g}</b></span>'
        for i, (name, points) in enumerate(shown.items())
    ]
    return Markup(f'<div class="keys">{"".join(entries)}</div>')


def loss_curves(metrics: Mapping[str, Points]) -> dict[str, dict[str, Points]]:
    """Chart title -> series of the losses in `read_metrics`' answer: the total, and the last layer's parts.

    Losses of auxiliary layers (`loss_mask_0`) are in the total and would only crowd the second chart.
    """
    parts = {name: points for name, points in metrics.items() if re.fullmatch(r"loss_\w*[a-z]", name)}
    charts = {"Total loss": {"total_loss": metrics.get("total_loss", [])}, "Parts of the loss": parts}
    return {title: series for title, series in charts.items() if any(series.values())}
