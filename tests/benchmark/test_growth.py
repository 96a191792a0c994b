"""Growth: what was measured, in lines that differ in one thing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from twostage.benchmark.growth import Point, draw_growth, longest_line, read_points
from twostage.errors import UserError


def _write(path: Path, size: str, classes: list[int]) -> Path:
    rows = [
        {"classes": c, "systems": {"san": {"steps": {"whole": {"processor": c / 10, "added": 2**20 * c}}}}}
        for c in classes
    ]
    path.write_text(json.dumps({"setting": {"size": size}, "rows": rows}))
    return path


def test_points_of_several_files(tmp_path: Path) -> None:
    files = [_write(tmp_path / "a.json", "500x1000", [20, 150]), _write(tmp_path / "b.json", "1000x1000", [150])]
    points = read_points(files)
    assert points == {"san": [Point(20, 0.5, 2.0, 20), Point(150, 0.5, 15.0, 150), Point(150, 1.0, 15.0, 150)]}
    assert longest_line(points["san"], "classes", "megapixels") == points["san"][:2]
    assert longest_line(points["san"], "megapixels", "classes") == points["san"][1:]


def test_picture_has_the_lines(tmp_path: Path) -> None:
    draw_growth(read_points([_write(tmp_path / "a.json", "500x1000", [20, 150, 847])]), tmp_path / "growth.png")
    colours = Image.open(tmp_path / "growth.png").convert("RGB").getcolors(1 << 20)
    assert colours is not None and any(colour == (31, 119, 180) for _, colour in colours)


def test_nothing_grows(tmp_path: Path) -> None:
    points = read_points([_write(tmp_path / "a.json", "500x1000", [20])])
    with pytest.raises(UserError, match="measure more"):
        draw_growth(points, tmp_path / "growth.png")
    assert not (tmp_path / "growth.png").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"setting": {"size": "big"}, "rows": []}', '{"rows": [{}]}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"tools/benchmark\.py --json"):
        read_points([tmp_path / "a.json"])
    with pytest.raises(UserError, match="can't be read"):
        read_points([tmp_path / "none.json"])
