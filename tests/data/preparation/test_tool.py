"""The command line of tools/prepare_datasets.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import miniatures
import numpy as np
import pytest
from PIL import Image

from twostage.data.views import dataset_info
from twostage.errors import run_cli

TOOL = Path(__file__).parents[3] / "tools" / "prepare_datasets.py"


@pytest.fixture
def tool(root, monkeypatch, capsys):
    """Run it in this process; returns (exit code, stdout, stderr)."""
    spec = importlib.util.spec_from_file_location("tool_prepare", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prepare_datasets", *map(str, args)])
        code = 0
        try:
            run_cli(module.main)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_list(tool, downloads) -> None:
    code, out, _ = tool("list")
    assert code == 0 and "A-847" in out and "toybox" in out
    code, out, _ = tool("list", "pc-59")
    assert "context_59_test_sem_seg" in out and "trainval_merged.json" in out and "ovseg: used by ovseg, scan" in out


def test_prepare_then_verify(tool, downloads) -> None:
    miniatures.voc(downloads)
    code, out, _ = tool("prepare", "VOC20", "--source", downloads, "--workers", "1")
    assert code == 0 and "val: 1 label maps written, 0 kept from before, 1 left out" in out
    code, out, _ = tool("verify", "pascalvoc20_sem_seg_val", "--workers", "1")
    assert code == 0 and "pascal_voc_20_val" in out and "pascal_voc_20_train" not in out and out.rstrip().endswith("ok")
    label = next(dataset_info("pascal_voc_20_val").label_root.glob("*.png"))
    Image.fromarray(np.asarray(Image.open(label)) + np.uint8(1)).save(label)
    code, out, _ = tool("verify", "PAS-20", "--splits", "val")
    assert code == 1 and "WRONG: labels are shifted by one" in out


def test_panoptic_labels(tool, downloads) -> None:
    semantic = miniatures.ade20k_150(downloads)
    command = ("prepare", "A-150", "--source", downloads, "--splits", "val", "--workers", "1")
    code, out, _ = tool(*command)
    assert code == 0 and "no panoptic labels: the originals are not in --source" in out
    miniatures.ade20k_instances(downloads, semantic)
    code, out, _ = tool(*command)
    assert code == 0 and "panoptic labels: 2 written, 0 kept, 0 broken" in out and "ade20k_panoptic_val.json" in out
    code, out, _ = tool("verify", "ade20k_panoptic_val")
    assert "panoptic labels: 2 pictures, 8 things" in out
    assert "ade20k_panoptic_val" in tool("list", "A-150")[1]


def test_mistakes(tool, downloads) -> None:
    code, _, err = tool("prepare", "voc20", "--source", downloads)
    assert code == 2 and "no originals of pascal_voc_20" in err and "VOCtrainval_11-May-2012.tar" in err
    code, _, err = tool("verify", "pascal_vok_20")
    assert code == 2 and "'pascal_voc_20'" in err
    code, out, _ = tool("verify", "cityscapes")
    assert code == 1 and "is missing" in out


def test_skip_broken(tool, downloads) -> None:
    miniatures.ade20k_150(downloads)
    broken = downloads / "ADEChallengeData2016" / "annotations" / "validation" / "ADE_val_00000002.png"
    broken.write_bytes(b"")
    command = ("prepare", "ade20k_150", "--source", downloads, "--splits", "val")
    code, _, err = tool(*command)
    assert code == 2 and "ADE_val_00000002.png" in err
    code, out, _ = tool(*command, "--skip-broken")
    assert code == 0 and "1 broken" in out and "skipped: label" in out


def test_verify_a_folder_of_your_own(tool, tmp_path) -> None:
    folder = tmp_path / "mine"
    for kind, pixels in (("images", np.zeros((4, 5, 3), np.uint8)), ("labels", np.full((4, 5), 2, np.uint8))):
        (folder / kind).mkdir(parents=True)
        Image.fromarray(pixels).save(folder / kind / "a.png")
    (folder / "classes.txt").write_text("cat\ndog\n")
    code, out, _ = tool("verify", folder)
    assert code == 1 and "shifted by one: they hold 2" in out
    (folder / "classes.txt").write_text("cat\ndog\ncow\n")
    Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5) % 3).save(folder / "labels" / "a.png")
    assert tool("verify", folder)[0] == 0


def test_prepare_a_folder_with_colour_labels(tool, tmp_path) -> None:
    folder = tmp_path / "mine"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        Image.fromarray(np.full((4, 5, 3), (10, 20, 30), np.uint8)).save(folder / kind / "a.png")
    (folder / "classes.json").write_text('{"classes": [{"name": "sofa", "color": [10, 20, 31]}]}')
    code, _, err = tool("prepare", folder)
    assert code == 2 and "[10, 20, 30]: 20 pixels in 1 file(s)" in err and "a.png" in err
    (folder / "classes.json").write_text('{"classes": [{"name": "sofa", "color": [10, 20, 30]}]}')
    code, out, _ = tool("prepare", folder, "--workers", "1")
    assert code == 0 and "1 colour pictures became label maps, 0 label maps kept" in out
    assert tool("verify", folder)[0] == 0
