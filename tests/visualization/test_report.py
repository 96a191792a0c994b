"""The page holds what it was given, and nothing from outside."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.errors import UserError
from twostage.visualization.charts import line_chart, loss_curves, read_metrics, ticks
from twostage.visualization.report import ErrorAnalysis, Example, Report, SystemResult, render_report, write_report

NAMES = ["grass", "striped <blue> star", "sand", "absent"]


def make_report(**changes) -> Report:
    panel = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    ours = {"mIoU": 51.111, "mIoU-seen": 62.345, "mIoU-unseen": 41.237, "mIoU-harmonic": 49.642, "pACC": 70.5}
    theirs = {"mIoU": 22.5, "mIoU-seen": 25.25, "mIoU-unseen": 19.875, "mIoU-harmonic": 22.243, "pACC": 88.125}
    content = {
        "title": "A <report>",
        "summary": "All is well & good.",
        "systems": [
            SystemResult("SAN", ours, [80.16, 33.333, 91.5, None]),
            SystemResult("dense CLIP", theirs, [12.5, 44.4, 9.0, None]),
        ],
        "class_names": NAMES,
        "unseen": [1],
        "examples": [Example("Best", "image 7", [("image", panel)], [("grass", (1, 2, 3), False)])],
        "curves": {"Total loss": {"total_loss": [(0, 4.0), (10, 2.0)]}},
        "config": "SEED: 3\nOPTS: '<none>'\n",
        "environment": {"machine": "x86_64"},
    }
    return Report(**{**content, **changes})


class _Page(HTMLParser):
    """Text, attributes and balance of a page's tags."""

    VOID = {"meta", "img", "link", "br", "hr", "input"}

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.attributes, self.open = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> does not close what was opened"

    def handle_data(self, data) -> None:
        self.text.append(data)


def test_page_holds_the_numbers() -> None:
    page = _Page(render_report(make_report()))
    assert page.open == []
    text = " ".join(page.text)
    for shown in ("51.11", "62.34", "41.24", "49.64", "25.25", "19.88", "22.24", "80.2", "33.3", "91.5"):
        assert re.search(rf"(?<![\d.]){re.escape(shown)}(?!\d)", text), shown
    assert "A <report>" in text and "striped <blue> star" in text and "OPTS: '<none>'" in text
    assert "1 classes without labels are left out" in text


def test_bars_are_sorted_and_marked() -> None:
    page = render_report(make_report())
    rows = re.findall(r'<div class="row( unseen)?"><span>(.*?)<span class="track">.*?width: ([\d.]+)%', page)
    assert [(bool(unseen), float(width)) for unseen, _, width in rows] == [(False, 91.5), (False, 80.16), (True, 33.33)]
    assert [float(left) for left in re.findall(r'class="other" style="left: ([\d.]+)%', page)] == [9.0, 12.5, 44.4]


def test_best_per_column_is_bold() -> None:
    page = render_report(make_report())
    assert re.findall(r"<td><b>([\d.]+)</b></td>", page) == ["62.34", "41.24", "49.64", "51.11", "88.12"]


def test_nothing_from_outside() -> None:
    page = render_report(make_report())
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|url\(", page.replace(_pictures(page)[0], ""))
    for name, value in _Page(page).attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith("data:image/webp;base64,")


def _pictures(page: str) -> list[str]:
    return re.findall(r"data:image/webp;base64,[A-Za-z0-9+/=]+", page)


def test_pictures_are_inside() -> None:
    rows, columns = np.mgrid[:48, :64]
    panel = np.stack([4 * rows, 3 * columns, 2 * rows + columns], axis=2).astype(np.uint8)
    report = make_report(examples=[Example("Best", "image 7", [("image", panel)], [])])
    (address,) = _pictures(render_report(report))
    with Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))) as image:
        off = np.abs(np.asarray(image.convert("RGB"), np.float64) - panel)
    assert off.mean() < 3


def test_panoptic_quality_is_shown_where_it_was_measured() -> None:
    """In the headline and by groups of classes; the oracles, which have none, get no column for it."""
    figures = {"mIoU": 50.0, "pACC": 80.0, **dict(zip(("PQ", "SQ", "RQ"), (41.5, 82.25, 50.125), strict=True))}
    figures |= {"PQ_st": 60.0, "SQ_st": 90.5, "RQ_st": 66.125, "PQ-seen": None}
    ours = SystemResult("SAN", figures, [80.0, 33.0, 91.0, None])
    analysis = ErrorAnalysis(12.0, 8.0, [ours, SystemResult("told", {"mIoU": 70.0, "pACC": 90.0}, [])])
    page = render_report(make_report(systems=[ours], analysis=analysis))
    assert _Page(page).open == []
    assert "<th>PQ</th></tr></thead>" in page and "<td><b>41.50</b></td>" in page
    assert "<tr><th>all</th><td>41.50</td><td>82.25</td><td>50.12</td></tr>" in page
    assert "<tr><th>stuff</th><td>60.00</td><td>90.50</td><td>66.12</td></tr>" in page and "<th>seen</th>" not in page
    oracles = page.split("With an oracle")[1].split("</table>")[0]
    assert "70.00" in oracles and "PQ" not in oracles and "41.50" not in oracles
    assert "Panoptic quality" not in render_report(make_report())


def test_page_of_one_system_without_anything_else() -> None:
    report = make_report(
        systems=[SystemResult("SAN", {"mIoU": 12.0, "mIoU-seen": None}, [1.0, None, None, None])],
        unseen=(), examples=(), curves={}, config="", environment={},
    )  # fmt: skip
    page = _Page(render_report(report))
    assert page.open == []
    text = " ".join(page.text)
    assert "12.00" in text and "seen mIoU" not in text and "Pictures" not in text and "Training" not in text


def test_write(tmp_path: Path) -> None:
    write_report(tmp_path / "new" / "report.html", make_report())
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write"):
        write_report(tmp_path / "file" / "report.html", make_report())


def test_read_metrics(tmp_path: Path) -> None:
    lines = [
        {"iteration": 19, "total_loss": 5.0, "loss_ce": 2.0, "loss_ce_0": 3.0, "lr": 0.1},
        {"iteration": 39, "total_loss": 4.0, "loss_ce": float("nan")},
        {"iteration": 39, "total_loss": 3.5, "sem_seg/mIoU": 40.0},
    ]
    path = tmp_path / "metrics.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"iteration": 59, "total_l')
    metrics = read_metrics(path)
    assert metrics["total_loss"] == [(19, 5.0), (39, 3.5)]
    assert metrics["loss_ce"] == [(19, 2.0)]
    assert loss_curves(metrics) == {
        "Total loss": {"total_loss": [(19, 5.0), (39, 3.5)]},
        "Parts of the loss": {"loss_ce": [(19, 2.0)]},
    }
    assert loss_curves({"lr": [(0, 1.0)]}) == {}


def test_line_chart_places_points() -> None:
    chart = str(line_chart({"a <b>": [(0, 0.0), (100, 10.0)], "none": []}, label="x"))
    (points,) = re.findall(r'points="([^"]+)"', chart)
    (x0, y0), (x1, y1) = ([float(v) for v in point.split(",")] for point in points.split())
    assert (x0, x1) == (52, 628)
    assert y0 == 266 and y1 == pytest.approx(12 + 254 * 0.5 / 10.5, abs=0.1)
    assert "a &lt;b&gt;" in chart and "none" not in chart
    assert "<circle" in line_chart({"a": [(5, 1.0)]}, label="x")
    assert line_chart({}, label="x") == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 0.031, [0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (3, 3, [3]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected
