"""The benchmark takes any system and reports the parts that the system names."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def benchmark(config, *options):
    command = [
        sys.executable,
        str(ROOT / "tools" / "benchmark.py"),
        "--config-file",
        str(ROOT / f"configs/{config}.yaml"),
    ]
    command += ["--size", "64x64", "--output-size", "32x40", "--classes", "3", "5", "--repeats", "1", *options]
    command += ["MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.DEVICE", "cpu"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout


@pytest.mark.parametrize(
    ("config", "options", "parts"),
    [
        ("toybox/catseg", ["--random-text"], ["trunk", "guidance", "cost map", "aggregation", "decoder"]),
        ("toybox/san", [], []),
        ("toybox/ovseg", [], ["generator", "masks", "crop", "clip"]),
        ("toybox/scan", [], ["pixel decoder", "context", "crop"]),
        ("toybox/fcclip", [], ["trunk", "pixel decoder", "masked decoder", "mask pooling"]),
        ("toybox/mask2former", [], ["backbone", "pixel decoder", "masked decoder"]),
    ],
)
def test_table(config, options, parts):
    done = benchmark(config, *options)
    steps, named = done.split("what each step costs")[0].split("seconds in the parts that the system names:")
    rows = [line.split() for line in steps.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == ["3", "5"] and all(
        float(value) >= 0 for row in rows for value in row if value != "nan"
    )
    # The text-classified Mask2Former uses CLIP's text tower only.
    assert all(math.isnan(float(row[6])) if "mask2former" in config else float(row[6]) > 0 for row in rows)
    # Random text takes no time that would mean anything.
    assert all(math.isnan(float(row[7])) == ("--random-text" in options) for row in rows)
    for part in parts:
        assert part in named.splitlines()[1]
    assert len([line for line in named.splitlines() if line.strip()[:1].isdigit()]) == 2


@pytest.mark.parametrize("config", ["san", "fcclip", "ovseg"])
def test_two_precisions_take_turns(config):
    """Trunks on their own included, whose weights are stored in the reduced precision."""
    printed = benchmark(f"toybox/{config}", "--precision", "float32,bfloat16")
    assert f"{config} float32 / {config} bfloat16" in printed
    alike = re.findall(r"both label ([0-9.]+)% of the pixels alike", printed)
    assert len(alike) == 2 and all(float(share) > 95 for share in alike)


def test_two_systems_take_turns(tmp_path):
    file, ratios = tmp_path / "all.json", tmp_path / "ratios.json"
    options = ("--compare", "toybox/catseg", "--json", str(file), "--write-ratios", str(ratios))
    printed = benchmark("toybox/san", *options)
    assert "3 classes: both label" in printed
    content = json.loads(file.read_text())
    assert content["setting"]["systems"] == ["san", "catseg"] and [row["classes"] for row in content["rows"]] == [3, 5]
    for row in content["rows"]:
        san, catseg = (row["systems"][name]["steps"] for name in ("san", "catseg"))
        found = row["ratios"]["whole"]["processor"]
        # With one turn the ratio is that of the two figures.
        assert found["median"] == found["low"] == found["high"]
        assert found["median"] == pytest.approx(catseg["whole"]["processor"] / san["whole"]["processor"])
        # Ours aggregates costs in `decode`, where SAN has a matrix product.
        assert row["ratios"]["decode"]["processor"]["median"] > 2
    stored = json.loads(ratios.read_text())
    assert stored["ratios"]["3 classes, whole"] == pytest.approx(content["ratios"]["3 classes, whole"], abs=1e-3)


def test_training_step(tmp_path):
    """The step's arithmetic does not depend on what is recomputed but by what is computed again, and more is kept without."""
    figures = []
    for recompute in ("False", "True"):
        file = tmp_path / f"{recompute}.json"
        done = benchmark(
            "toybox/catseg", "--training", "2", "--json", str(file), "SOLVER.ACTIVATION_CHECKPOINTING", recompute
        )
        assert "what each step costs" in done and "trunk s" not in done
        row = json.loads(file.read_text(encoding="utf-8"))["rows"][0]
        figures.append(row["systems"]["catseg"]["steps"]["whole"])
    kept, recomputed = figures
    assert kept["operations"] < recomputed["operations"] < 1.5 * kept["operations"]
    assert kept["added"] > recomputed["added"]


def test_training_has_no_precision_to_compare():
    with pytest.raises(subprocess.CalledProcessError):
        benchmark("toybox/san", "--training", "2", "--precision", "float32,bfloat16")


def test_chosen_steps(tmp_path):
    benchmark("toybox/maskclip", "--steps", "whole", "--json", str(tmp_path / "growth.json"))
    rows = json.loads((tmp_path / "growth.json").read_text(encoding="utf-8"))["rows"]
    assert [list(row["systems"]["maskclip"]["steps"]) for row in rows] == [["whole"], ["whole"]]
    with pytest.raises(subprocess.CalledProcessError):
        benchmark("toybox/maskclip", "--steps", "trunk")
