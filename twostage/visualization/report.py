"""One self-contained HTML page about an evaluation: table, pictures, per-class IoU, curves, config, environment.

Everything is inside the file (pictures as base64 PNG, charts as SVG, no scripts, no addresses), so that it can be mailed
or opened from a folder. The page's template is `report.html` beside this file.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from twostage.evaluation.results import HEADLINE, panoptic_rows
from twostage.files import write_text
from twostage.visualization.charts import Points, line_chart

# Columns of the headline table, as far as a system has them.
_COLUMNS = ("mIoU-seen", "mIoU-unseen", "mIoU-harmonic", "mIoU", "pACC", "PQ")
# WebP's, of pictures that are looked at.
_QUALITY = 90


@dataclass(frozen=True)
class SystemResult:
    """Figures of one system in percent, as its results file has them."""

    name: str
    figures: Mapping[str, float | None]
    iou_per_class: Sequence[float | None]

    @classmethod
    def from_record(cls, name: str, record: Mapping[str, Any]) -> SystemResult:
        """From the content of a `results-<dataset>.json`."""
        return cls(name, record["figures"], record["iou_per_class"])


@dataclass(frozen=True)
class Example:
    """A picture of the report: titled panels of one size, and the classes in them as (name, RGB, unseen)."""

    title: str
    caption: str
    panels: Sequence[tuple[str, np.ndarray]]
    classes: Sequence[tuple[str, Sequence[int], bool]] = ()


@dataclass(frozen=True)
class Confusion:
    """Pixels of `label` that are taken for `prediction`: share of the label's pixels and of all, in percent."""

    label: str
    prediction: str
    share: float
    area: float
    unseen: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class ErrorAnalysis:
    """Why pixels are wrong, in percent of all (`twostage.evaluation.oracles`), and figures with oracles.

    Attributes:
        mask: error that stays when each predicted region gets its best name.
        classification: error that naming the predicted regions right would repair.
        oracles: the system itself first.
    """

    mask: float
    classification: float
    oracles: Sequence[SystemResult]


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        title: heading of the page.
        summary: the finding in a sentence or two, below the heading.
        systems: the first one is the page's subject, the others are what it is compared with.
        class_names: in the order of `iou_per_class`.
        unseen: indices of the classes that were not trained on.
        examples: pictures.
        analysis: where the errors come from.
        confusions: title -> pairs of classes, largest first.
        curves: chart title -> series name -> points (x, y).
        config: yaml.
        environment: name -> value.
    """

    title: str
    summary: str
    systems: Sequence[SystemResult]
    class_names: Sequence[str]
    unseen: Sequence[int] = ()
    examples: Sequence[Example] = ()
    analysis: ErrorAnalysis | None = None
    confusions: Mapping[str, Sequence[Confusion]] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Points]] = field(default_factory=dict)
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def write_report(path: str | Path, report: Report) -> None:
    """Write the page atomically. Raises UserError where the file can't be written."""
    write_text(path, render_report(report))


def render_report(report: Report) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html").render(
        report=report,
        columns=_columns(report.systems),
        headline=HEADLINE,
        best=_best(report.systems),
        bars=_bars(report),
        absent=sum(value is None for value in report.systems[0].iou_per_class),
        oracle_columns=_oracle_columns(report.analysis.oracles) if report.analysis else [],
        panoptic=panoptic_rows(report.systems[0].figures),
        charts={title: line_chart(series, label=title) for title, series in report.curves.items()},
        inline=inline_picture,
    )


def inline_picture(picture: np.ndarray) -> str:
    """A `data:` address holding the uint8 RGB picture `[H, W, 3]`; as WebP, since pages of many systems have hundreds."""
    return "data:image/webp;base64," + base64.b64encode(webp_bytes(picture)).decode("ascii")


def webp_bytes(picture: np.ndarray) -> bytes:
    """The uint8 RGB picture `[H, W, 3]` as WebP, to be looked at."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="WEBP", quality=_QUALITY)
    return buffer.getvalue()


def _columns(systems: Sequence[SystemResult]) -> list[str]:
    return [key for key in _COLUMNS if any(system.figures.get(key) is not None for system in systems)]


def _oracle_columns(rows: Sequence[SystemResult]) -> list[str]:
    """Figures that all rows have: oracles have no segments, and so no panoptic quality."""
    return [key for key in _COLUMNS if all(row.figures.get(key) is not None for row in rows)]


def _best(systems: Sequence[SystemResult]) -> dict[str, float]:
    """The highest value per column, which the table prints bold."""
    return {
        key: max(value for system in systems if (value := system.figures.get(key)) is not None)
        for key in _columns(systems)
    }


def _bars(report: Report) -> list[dict[str, Any]]:
    """Classes that occur in the labels, best first: name, IoU, IoU of the first other system (None without), unseen."""
    unseen = set(report.unseen)
    other = report.systems[1].iou_per_class if len(report.systems) > 1 else [None] * len(report.class_names)
    rows = [
        {"name": name, "iou": iou, "other": other[i], "unseen": i in unseen}
        for i, (name, iou) in enumerate(zip(report.class_names, report.systems[0].iou_per_class, strict=True))
        if iou is not None
    ]
    return sorted(rows, key=lambda row: -row["iou"])
