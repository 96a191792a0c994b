"""`tools/beside_authors.py` without anybody's code: our side alone, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from twostage.allocator import KEEP

ROOT = Path(__file__).parents[3]


def test_the_tool_runs_our_side_alone(tmp_path):
    small = ["--classes", "3", "4", "--size", "64x80", "--output-size", "32x40", "--turns", "1"]
    command = [sys.executable, "tools/beside_authors.py", "--system", "toybox/san", *small]
    output = tmp_path / "figures.json"
    done = subprocess.run(
        [*command, "--alone", "ours", "--json", output], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert found["setting"]["alone"] == "ours" and [row["classes"] for row in found["rows"]] == [3, 4]
    assert found["rows"][0]["sides"]["ours"]["processor"] > 0 and "theirs" not in found["rows"][0]["sides"]
    refused = subprocess.run([*command, "--code", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "clone https://github.com/MendelXu/SAN" in refused.stderr


@pytest.mark.parametrize(
    ("line", "kept"), [(["--alone", "theirs"], "0"), (["--alone=theirs"], "0"), (["--alone", "ours"], None), ([], None)]
)
def test_their_side_alone_leaves_glibc_as_it_is(monkeypatch, line, kept):
    monkeypatch.delenv(KEEP, raising=False)
    spec = importlib.util.spec_from_file_location("beside_authors", ROOT / "tools" / "beside_authors.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.leave_allocator(["--system", "san_vitb", *line, "MODEL.DEVICE", "cpu"])
    assert os.environ.get(KEEP) == kept
    # Set by the tool, not through monkeypatch.
    os.environ.pop(KEEP, None)
