"""What surrounds training: processes, output folder, evaluation on its own, tables."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from detectron2.engine import default_argument_parser

from twostage.commands.arguments.learning import train_parser
from twostage.commands.launch import launch
from twostage.commands.setup import set_aside_earlier_run, set_up
from twostage.commands.train import evaluate, run
from twostage.engine.results_table import evaluation_table
from twostage.errors import UserError
from twostage.files import check_writable


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "data"
    tiny.write_dataset(folder)
    return folder


def test_arguments() -> None:
    args = train_parser().parse_args(["--config-file", "x.yaml", "--num-gpus", "2", "--resume", "SEED", "3"])
    assert (args.config_file, args.num_gpus, args.resume, args.eval_only) == ("x.yaml", 2, True, False)
    assert args.opts == ["SEED", "3"] and args.dist_url == "auto"
    theirs, ours = vars(default_argument_parser().parse_args([])), vars(train_parser().parse_args([]))
    assert ours == {**theirs, "dist_url": "auto", "skip_broken": False, "weights": None}


def test_one_process_is_a_plain_call() -> None:
    calls: list[tuple[int, ...]] = []
    launch(lambda *args: calls.append(args), processes=0, device="cpu", args=(1, 2))
    assert calls == [(1, 2)]
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processes": 3, "device": "cuda"}, "--num-gpus is 3, but this machine has 2"),
        ({"processes": -2}, "--num-gpus is -2, .* of 1 or more"),
        ({"machines": 0}, "--num-machines 0; give"),
        ({"machines": 2}, "--dist-url tcp://HOST:PORT"),
        ({"address": "localhost:1"}, "--dist-url is 'localhost:1'"),
        ({"machines": 2, "machine_rank": 2, "address": "tcp://a:1"}, "--machine-rank is 2"),
    ],
)
def test_launch_errors(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=message):
        launch(print, **{"processes": 2, "device": "cpu"} | changes)


def test_output_folder(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"output folder '.*file' can't be written .* OUTPUT_DIR"):
        check_writable(tmp_path / "file")


def test_a_new_run_sets_the_earlier_one_aside(tmp_path: Path) -> None:
    """Resumed before its first checkpoint, it must not go on from one of before."""
    for name in ("metrics.json", "last_checkpoint"):
        (tmp_path / name).write_text(f"old {name}")
    set_aside_earlier_run(tmp_path)
    set_aside_earlier_run(tmp_path)
    assert (tmp_path / "metrics.previous.json").read_text() == "old metrics.json"
    assert (tmp_path / "last_checkpoint.previous").read_text() == "old last_checkpoint"
    assert not (tmp_path / "metrics.json").exists() and not (tmp_path / "last_checkpoint").exists()


@pytest.mark.parametrize("training", [False, True])
def test_an_evaluation_leaves_the_config_of_a_training_run(data: Path, tmp_path: Path, training: bool) -> None:
    """`--resume` compares with it; an evaluation's own is in its results. Without a run it is written."""
    cfg = tiny.tiny_config(data, tmp_path, SOLVER__BASE_LR=0.7)
    args = argparse.Namespace(config_file="", eval_only=not training)
    for begun, written in ((False, True), (True, training)):
        (tmp_path / "config.yaml").write_text("SOLVER: {}\n")
        if begun:
            (tmp_path / "last_checkpoint").write_text("model_final.pth")
        set_up(cfg, args)
        assert ("BASE_LR: 0.7" in (tmp_path / "config.yaml").read_text()) == written


def test_table_of_one_and_of_several_sets() -> None:
    figures = {"sem_seg": {"mIoU": 12.345, "IoU-cat": 1.0}}
    one = evaluation_table(["a"], figures).splitlines()
    assert "12.35" in one[2] or "12.34" in one[2]
    assert one[2].startswith("| a") and "cat" not in one[0]
    two = evaluation_table(["a", "b"], {"a": figures, "b": {"sem_seg": {"mIoU": 50.0}}}).splitlines()
    assert len(two) == 4 and two[3].startswith("| b") and "50.00" in two[3]


def test_several_test_sets(data: Path, tmp_path: Path) -> None:
    cfg = tiny.tiny_config(data, tmp_path, DATASETS__TEST=("tiny_val", "tiny_train"), SOLVER__MAX_ITER=1)
    results = tiny.build_trainer(cfg).train()
    assert list(results) == ["tiny_val", "tiny_train"]
    assert results["tiny_val"] == results["tiny_train"]
    assert tiny.read_metrics(tmp_path)[-1]["tiny_train/count/images"] == 7


def test_evaluation_uses_the_averaged_weights(data: Path, tmp_path: Path) -> None:
    changes = {"SOLVER__EMA__ENABLED": True, "SOLVER__EMA__DECAY": 1.0, "SOLVER__BASE_LR": 0.1}
    cfg = tiny.tiny_config(data, tmp_path, **changes)
    trainer = tiny.build_trainer(cfg)
    untrained = trainer.test(cfg, trainer.module)
    assert trainer.train() == untrained  # decay 1: the average never moves
    trained = trainer.test(cfg, trainer.module)
    assert trained != untrained
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    assert evaluate(cfg, tiny.TinyTrainer) == untrained
    cfg.SOLVER.EMA.ENABLED = False
    assert evaluate(cfg, tiny.TinyTrainer) == trained
    cfg.SOLVER.EMA.ENABLED = True
    state = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)
    torch.save({"model": state["model"]}, tmp_path / "plain.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "plain.pth")
    assert evaluate(cfg, tiny.TinyTrainer) == trained


def test_run_trains_then_evaluates_the_file(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = tiny.tiny_config(data, tmp_path / "out")
    (tmp_path / "out" / "metrics.json").write_text("{}\n")
    training = run(cfg, argparse.Namespace(config_file="", eval_only=False, resume=False), tiny.TinyTrainer)
    table = capsys.readouterr().out.splitlines()[-3:]
    assert table[0].split("|")[2].strip() == "mIoU" and table[2].startswith("| tiny_val")
    assert all("lr" in line for line in tiny.read_metrics(tmp_path / "out")[:1])
    assert (tmp_path / "out" / "metrics.previous.json").read_text() == "{}\n"
    assert (tmp_path / "out" / "config.yaml").is_file() and (tmp_path / "out" / "log.txt").is_file()

    cfg = tiny.tiny_config(data, tmp_path / "eval", MODEL__WEIGHTS=str(tmp_path / "out" / "model_final.pth"))
    evaluated = run(cfg, argparse.Namespace(config_file="", eval_only=True, resume=False), tiny.TinyTrainer)
    assert evaluated == training
    assert capsys.readouterr().out.splitlines()[-1] == table[2]
