"""The torchvision shim: makes a broken build importable, leaves a healthy one alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SHIM = Path(__file__).parents[1] / "twostage" / "torchvision_shim.py"
BROKEN = """
import torch
@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, threshold): ...
@torch.library.register_fake("torchvision::roi_align")
def roi_align(*args): ...
"""


def run(tmp_path, package: str, code: str) -> subprocess.CompletedProcess:
    """Run `code` in a fresh Python in which `torchvision` is a package with the source `package`."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(package)
    (tmp_path / "shim.py").write_text(SHIM.read_text())
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import shim, torch; {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_broken_build_becomes_importable(tmp_path):
    result = run(tmp_path, BROKEN, "print(shim.ensure_torchvision(), len(shim._declared)); import torchvision")
    assert result.stdout.split() == ["True", "2"], result.stderr


def test_declared_operators_still_refuse_to_run(tmp_path):
    code = "shim.ensure_torchvision(); torch.ops.torchvision.nms(torch.zeros(1))"
    result = run(tmp_path, BROKEN, code)
    assert result.returncode != 0 and "torchvision::nms" in result.stderr


def test_inert_where_torchvision_is_healthy(tmp_path):
    code = "print(shim.ensure_torchvision(), shim._declared, hasattr(torch.ops.torchvision, 'nms'))"
    result = run(tmp_path, "healthy = True", code)
    assert result.stdout.split() == ["False", "[]", "False"], result.stderr


@pytest.mark.parametrize("error", ["RuntimeError('no kernel image')", "ImportError('libpng')"])
def test_other_faults_are_not_hidden(tmp_path, error):
    result = run(tmp_path, f"raise {error}", "shim.ensure_torchvision()")
    assert result.returncode != 0 and error.split("'")[1] in result.stderr


def test_here_timm_and_open_clip_import():
    code = "import twostage, timm, open_clip, torchvision.transforms; print(open_clip.__version__)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=SHIM.parents[1]
    )
    assert result.returncode == 0, result.stderr
