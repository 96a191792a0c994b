"""Bad input at the command line: one line that names the culprit and the way out, exit code 2, no traceback."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from twostage.commands.main import run
from twostage.errors import run_cli

ROOT = Path(__file__).parents[1]
SAN = str(ROOT / "configs" / "toybox" / "san.yaml")
MASKCLIP = str(ROOT / "configs" / "toybox" / "maskclip.yaml")
RANDOM = ["MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.DEVICE", "cpu"]


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run a tool's main in this process; returns (exit code, stdout, stderr)."""

    def run(name: str, *args: str) -> tuple[int, str, str]:
        spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        code = 0
        try:
            run_cli(module.main)
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def said(result: tuple[int, str, str], *parts: str) -> None:
    """The run failed the user's way, and its one error line holds all `parts`."""
    code, _, err = result
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err, err
    for part in parts:
        assert part in lines[0], lines[0]


@pytest.fixture
def command(capsys):
    """Run `twostage` in this process; returns (exit code, stdout, stderr)."""

    def call(*args: object) -> tuple[int, str, str]:
        code = 0
        try:
            run_cli(lambda: run([str(arg) for arg in args]))
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "c.png"):
        Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(folder / name)
    (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes()[:100])
    return folder


def test_demo_skips_the_broken_picture_and_does_the_others(tool, pictures, tmp_path):
    out = tmp_path / "out"
    result = tool(
        "demo",
        "--config-file",
        MASKCLIP,
        "--input",
        pictures,
        "--vocabulary",
        "cat, sofa",
        "--others",
        "none",
        "--output",
        out,
        *RANDOM,
    )
    said(result, "1 of 3", "b.jpg")
    assert sorted(p.name for p in out.iterdir()) == ["a_labels.png", "a_overlay.png", "c_labels.png", "c_overlay.png"]
    labels = np.asarray(Image.open(out / "a_labels.png"))
    assert labels.shape == (40, 56) and labels.max() <= 1
    assert "a.jpg: " in result[1] + result[2]


@pytest.mark.parametrize(
    ("vocabulary", "part"),
    [
        (" , ", "names nothing"),
        ("cat, Cat", "twice"),
        ("word " * 90, "context of 77 tokens"),
        ("missing.txt", "missing.txt"),
    ],
)
def test_demo_vocabulary(tool, pictures, tmp_path, vocabulary, part):
    result = tool(
        "demo",
        "--config-file",
        MASKCLIP,
        "--input",
        pictures,
        "--vocabulary",
        vocabulary,
        "--output",
        tmp_path,
        *RANDOM,
    )
    said(result, part)


def test_segment_writes_every_format_and_reports_the_broken_picture(command, pictures, tmp_path):
    out = tmp_path / "out"
    words = [
        "--words",
        "cat, sofa",
        "--others",
        "none",
        "--system",
        "toybox/maskclip",
        "--output",
        out,
        "--format",
        "npz,coco,png",
    ]
    result = command("segment", pictures / "c.png", pictures, *words, "--set", *RANDOM)
    said(result, "1 of 4", "b.jpg")
    pngs = [f"{stem}_{part}.png" for stem in ("a", "c", "c_2") for part in ("labels", "overlay")]
    assert sorted(p.name for p in out.iterdir()) == sorted([*pngs, "a.npz", "c.npz", "c_2.npz", "coco.json"])
    coco = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [
        str(pictures / name) for name in ("c.png", "a.jpg", "c.png")
    ]
    assert "note" not in result[1]


def test_segment_says_what_it_replaces_and_spares_what_is_not_its_own(command, pictures, tmp_path):
    out = tmp_path / "out"
    words = [
        "--words",
        "cat, sofa",
        "--others",
        "none",
        "--system",
        "toybox/maskclip",
        "--output",
        out,
        "--set",
        *RANDOM,
    ]
    assert command("segment", pictures / "a.jpg", *words)[0] == 0
    code, printed, _ = command("segment", pictures / "a.jpg", *words)
    assert code == 0 and "note: 2 files of an earlier run" in printed and "a_overlay.png" in printed
    Image.new("RGB", (4, 4)).save(out / "c_labels.png")
    content = (out / "c_labels.png").read_bytes()
    said(command("segment", pictures / "c.png", *words), "c_labels.png", "choose another --output")
    assert (out / "c_labels.png").read_bytes() == content


def test_segment_says_what_competes(command, pictures, tmp_path):
    words = [pictures / "a.jpg", "--words", "cat", "--system", "toybox/maskclip", "--output", tmp_path / "out"]
    code, printed, err = command("segment", *words, "--others", "dog, sky", "--set", *RANDOM)
    assert code == 0 and "competing with your words: dog, sky (" in printed and "none of the words" in printed + err
    code, printed, err = command("segment", *words, "--others", "none", "--set", *RANDOM)
    assert code == 0 and "competing" not in printed and "cat 100.0 %" in printed + err
    code, printed, err = command("segment", *words, "--others", "none", "--min-score", "1e9", "--set", *RANDOM)
    assert code == 0 and "a.jpg: none of the words 100.0 %" in printed + err


def test_segment_things(command, pictures, tmp_path):
    words = ["--words", "cat, sofa", "--others", "none", "--output", tmp_path / "out"]
    said(
        command(
            "segment", pictures / "a.jpg", *words, "--system", "toybox/maskclip", "--things", "caat", "--set", *RANDOM
        ),
        "'caat'",
        "'cat'",
    )
    done = command("segment", pictures / "a.jpg", *words, "--system", "toybox/san", "--things", "cat", "--set", *RANDOM)
    assert done[0] == 0, done[2]
    assert (tmp_path / "out" / "a_segments.json").is_file()


def test_demo_input_and_output(tool, pictures, tmp_path):
    common = ["--config-file", MASKCLIP, "--vocabulary", "cat"]
    said(tool("demo", *common, "--input", tmp_path / "none.jpg", "--output", tmp_path, *RANDOM), "none.jpg")
    blocked = tmp_path / "file"
    blocked.write_text("")
    said(
        tool("demo", *common, "--input", pictures, "--output", blocked / "out", *RANDOM), "can't be written", "--output"
    )


@pytest.mark.parametrize("size", ["0x10", "-1x5", "1x100000", "100000x100000", "99999999999999x1", "640", "axb"])
def test_absurd_sizes(command, tmp_path, monkeypatch, size):
    """Told before a model is built, with what is allowed."""
    for module in ("benchmark", "export"):
        monkeypatch.setattr(f"twostage.commands.{module}.build_from_config", _never)
    allowed = "1 to 4096 pixels" if size[0] != "-" and "x" in size[1:] and size != "axb" else "HEIGHTxWIDTH"
    said(
        command("export", "--system", "toybox/san", f"--size={size}", "--output", tmp_path / "x.onnx"),
        f"--size is '{size}'",
        allowed,
    )
    for option in ("--size", "--output-size"):
        said(command("benchmark", "--system", "toybox/san", f"{option}={size}"), f"{option} is '{size}'", allowed)


@pytest.mark.parametrize("key", ["INPUT.MIN_SIZE_TEST", "TEST.SLIDING.TILE", "MODEL.SAN.SIZE_DIVISIBILITY"])
@pytest.mark.parametrize("name", ["segment", "label", "large", "video", "evaluate", "train", "export", "benchmark"])
def test_absurd_sizes_in_overrides(command, pictures, tmp_path, name, key):
    """Of every command that takes overrides, which are read before anything else."""
    asks = name in ("segment", "label", "large", "video")
    words = [
        *([pictures / "a.jpg", "--words", "cat"] if asks else []),
        *(["--output", tmp_path / ("x.onnx" if name == "export" else "x.png")] if asks or name == "export" else []),
        "--system",
        "toybox/san",
        *(["--set"] if asks else []),
    ]
    said(command(name, *words, key, "100000"), f"{key} is 100000", "at most 4096 pixels")


def test_a_picture_that_is_too_long_is_broken_like_others(command, pictures, tmp_path):
    """Few pixels, but a map as long as it has columns by what it is resized to has many."""
    Image.new("RGB", (100_000, 1)).save(pictures / "b.png")
    words = ["--words", "cat", "--system", "toybox/maskclip", "--output", tmp_path / "out", "--set", *RANDOM]
    said(command("segment", pictures / "b.png", *words), "b.png", "100000 x 1", "at most 65535")


@pytest.mark.parametrize("option", ["--json", "--write-ratios"])
def test_figures_that_can_not_be_written_are_not_measured(command, tmp_path, monkeypatch, option):
    monkeypatch.setattr("twostage.commands.benchmark.build_from_config", _never)
    (tmp_path / "file").write_text("")
    result = command("benchmark", "--system", "toybox/san", option, tmp_path / "file" / "x.json")
    said(result, str(tmp_path / "file"), "can't be written")


@pytest.mark.parametrize("score", ["nan", "abc", ""])
@pytest.mark.parametrize("name", ["segment", "label"])
def test_least_scores_that_are_no_numbers(command, pictures, tmp_path, name, score):
    words = ["--words", "cat", "--system", "toybox/maskclip", "--output", tmp_path / "out", f"--min-score={score}"]
    said(command(name, pictures / "a.jpg", *words), f"'{score}' is no number")


@pytest.mark.parametrize("device", ["tpu", "", "cuda:99", "mps", "meta", "xla", "hpu", "cpu:x"])
def test_devices_that_are_not_here(command, pictures, tmp_path, device):
    words = ["--words", "cat", "--system", "toybox/maskclip", "--output", tmp_path / "out", "--set"]
    said(
        command("segment", pictures / "a.jpg", *words, "MODEL.DEVICE", device), f"MODEL.DEVICE is '{device}'", "'auto'"
    )
    pytest.importorskip("gradio", reason="needs the extra 'web'")
    said(command("serve", "--system", "toybox/maskclip", "--device", device), f"--device is '{device}'", "'auto'")


@pytest.mark.parametrize("name", ["prepare", "verify"])
def test_numbers_of_workers(command, name):
    for workers in ("0", "-3", "x"):
        said(command(name, "ade20k_150", f"--workers={workers}"), f"'{workers}' is no number of things")


def _never(*_: object) -> None:
    raise AssertionError("something was built")


def test_unknown_config_key_and_value(tool, tmp_path):
    said(tool("train_net", "--config-file", SAN, "SOLVER.MAX_ITERS", "5"), "SOLVER.MAX_ITERS", "'SOLVER.MAX_ITER'")
    said(tool("train_net", "--config-file", SAN, "SOLVER.OPTIMIZER", "adam"), "SOLVER.OPTIMIZER", "'ADAMW'")
    said(tool("train_net", "--config-file", SAN.replace("san", "sann")), "sann.yaml", "san.yaml")


def test_dataset_folder_missing(tool, tmp_path):
    result = tool(
        "train_net", "--config-file", ROOT / "configs" / "san_vitb.yaml", "OUTPUT_DIR", tmp_path / "out", *RANDOM
    )
    said(result, "coco", "twostage prepare coco_stuff", "toybox_train")


def test_unknown_dataset(tool, tmp_path):
    result = tool(
        "train_net", "--config-file", SAN, "OUTPUT_DIR", tmp_path, "DATASETS.TRAIN", "('toybox_trian',)", *RANDOM
    )
    said(result, "toybox_trian", "'toybox_train'")


def test_output_folder_not_writable(tool, tmp_path):
    (tmp_path / "file").write_text("")
    said(tool("train_net", "--config-file", SAN, "OUTPUT_DIR", tmp_path / "file" / "out", *RANDOM), "OUTPUT_DIR")


def checkpoint(path: Path, kind: str) -> Path:
    """A bad checkpoint."""
    if kind == "of another system":
        names = ("clip_adapter.w", "sem_seg_head.predictor.query_embed.weight", "backbone.w")
        torch.save({"model": {name: torch.zeros(2) for name in names}}, path)
    elif kind == "truncated":
        torch.save({"model": {"w": torch.zeros(5000)}}, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "with pickled code":
        torch.save({"model": {"w": torch.zeros(2)}, "path": Path("x")}, path)
    elif kind == "that does not fit":
        torch.save({"model": {"side_adapter.pos_embed": torch.zeros(2)}}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("of another system", "one of OVSeg"),
        ("truncated", "truncated"),
        ("with pickled code", "pickled objects"),
        ("that does not fit", "side_adapter.pos_embed"),
        ("missing", "does not exist"),
    ],
)
def test_checkpoint(tool, tmp_path, kind, part):
    path = checkpoint(tmp_path / "weights.pth", kind)
    demo = ["--input", tmp_path / "a.png", "--vocabulary", "cat", "--output", tmp_path / "out"]
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    said(tool("demo", "--config-file", SAN, *demo, *RANDOM, "MODEL.WEIGHTS", path), "weights.pth", part)


def test_reference_case(tool, tmp_path):
    (tmp_path / "x.json").write_text("[]")
    said(tool("check_reference", tmp_path / "x.json"), "x.json", "not a reference case")
    (tmp_path / "x.json").write_text('{"system": "SEN"}')
    said(tool("check_reference", tmp_path / "x.json"), "'SEN'", "'SAN'")


def test_training_free_systems_cannot_be_trained(tool, tmp_path):
    result = tool("train_net", "--config-file", MASKCLIP, "OUTPUT_DIR", tmp_path / "out", *RANDOM)
    said(result, "TrainingFree", "--eval-only")
