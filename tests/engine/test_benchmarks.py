"""tools/evaluate.py from end to end: several sets with one model, tables, reports, continuation, missing sets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from detectron2.data import MetadataCatalog

from twostage.commands import evaluate as command
from twostage.commands import train as run
from twostage.commands.arguments.learning import evaluate_parser
from twostage.commands.evaluate import benchmark_config, evaluate_benchmarks
from twostage.errors import UserError


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A yaml of the tiny system, with weights on disk."""
    tiny.write_dataset(tmp_path / "data")
    cfg = tiny.tiny_config(tmp_path / "data", tmp_path / "out")
    torch.manual_seed(3)
    torch.save({"model": tiny.TinySystem(cfg).state_dict()}, tmp_path / "weights.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    (tmp_path / "tiny.yaml").write_text(cfg.dump())
    return tmp_path / "tiny.yaml"


def arguments(config_file: Path, **changes: Any) -> argparse.Namespace:
    given = {
        "config_file": str(config_file), "datasets": ["tiny_val", "tiny_train"], "name": "Tiny", "report": False,
        "resume": False, "skip_broken": False, "skip_missing": False, "opts": [],
    }  # fmt: skip
    return argparse.Namespace(**{**given, **changes})


def test_two_sets_in_one_go(config_file: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    build = run.Trainer.build_model.__func__
    monkeypatch.setattr(run.Trainer, "build_model", classmethod(lambda cls, cfg: (built.append(1), build(cls, cfg))[1]))
    MetadataCatalog.get("tiny_val").set(seen_classes=[0, 1], unseen_classes=[2])
    args = arguments(config_file, report=True)
    evaluate_benchmarks(benchmark_config(args), args)
    assert len(built) == 1
    page = (tmp_path / "out" / "results.md").read_text()
    assert page in capsys.readouterr().out
    for name in ("tiny_val", "tiny_train"):
        record = json.loads((tmp_path / "out" / "inference" / f"results-{name}.json").read_text())
        assert f"| {name} " in page.replace("  ", " ") and f"{record['figures']['mIoU']:.2f}" in page
        html = (tmp_path / "out" / f"report-{name}.html").read_text()
        assert f"Tiny on {name}" in html and f"{record['errors']['mask-error']:.1f} %" in html
    assert record["errors"]["error"] == pytest.approx(100 - record["figures"]["pACC"])


def test_continued_over_sets(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first set was finished, the second stopped after two images: only the rest is predicted."""
    seen: list[str] = []
    forward = tiny.TinySystem.forward

    def counting(self, batch):
        if len(seen) == 9:
            raise KeyboardInterrupt
        seen.extend(entry["file_name"] for entry in batch)
        return forward(self, batch)

    monkeypatch.setattr(tiny.TinySystem, "forward", counting)
    args = arguments(config_file)
    with pytest.raises(KeyboardInterrupt):
        evaluate_benchmarks(benchmark_config(args), args)
    first = json.loads((tmp_path / "out" / "inference" / "results-tiny_val.json").read_text())
    seen.clear()
    args.resume = True
    evaluate_benchmarks(benchmark_config(args), args)
    assert len(seen) == 5
    again, second = (
        json.loads((tmp_path / "out" / "inference" / f"results-{n}.json").read_text())
        for n in ("tiny_val", "tiny_train")
    )
    assert again == first
    assert second["figures"] == first["figures"] and second["continued_images"] == 2
    # Other weights: nothing is taken over.
    seen.clear()
    torch.manual_seed(4)
    state = {"model": tiny.TinySystem(benchmark_config(args)).state_dict()}
    torch.save(state, tmp_path / "weights.pth")
    monkeypatch.setattr(tiny.TinySystem, "forward", forward)
    evaluate_benchmarks(benchmark_config(args), args)
    other = json.loads((tmp_path / "out" / "inference" / "results-tiny_val.json").read_text())
    assert other["weights_sha256"] != first["weights_sha256"] and other["continued_images"] == 0


def test_missing_sets(config_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="twostage prepare"):
        benchmark_config(arguments(config_file, datasets=["A-150", "tiny_val"]))
    with pytest.raises(UserError, match="none of cityscapes_val is on this machine"):
        benchmark_config(arguments(config_file, datasets=["cityscapes_val"], skip_missing=True))
    cfg = benchmark_config(arguments(config_file, datasets=["Cityscapes", "tiny_val"], skip_missing=True))
    assert tuple(cfg.DATASETS.TEST) == ("tiny_val",)


def test_options_become_keys(config_file: Path) -> None:
    plain = benchmark_config(arguments(config_file, datasets=[]))
    assert tuple(plain.DATASETS.TEST) == ("tiny_val",) and not plain.TEST.ORACLES and not plain.TEST.SKIP_BROKEN
    cfg = benchmark_config(arguments(config_file, report=True, skip_broken=True, opts=["TEST.BOUNDARY_IOU", "True"]))
    assert cfg.TEST.ORACLES and cfg.TEST.SAVE_PREDICTIONS and cfg.TEST.SKIP_BROKEN and cfg.TEST.BOUNDARY_IOU


def test_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Config pairs may follow the names of the datasets."""
    caught: list[argparse.Namespace] = []
    monkeypatch.setattr(command, "benchmark_config", lambda args: (caught.append(args), tiny.default_config())[1])
    monkeypatch.setattr(command, "launch", lambda *args, **kwargs: None)
    line = "--config-file a.yaml --resume --datasets five PAS-20b MODEL.WEIGHTS w.pth TEST.PANOPTIC True"
    command.run_from_arguments(evaluate_parser().parse_args(line.split()))
    assert caught[0].datasets == ["five", "PAS-20b"] and caught[0].resume
    assert caught[0].opts == ["MODEL.WEIGHTS", "w.pth", "TEST.PANOPTIC", "True"]
