"""What `--resume` goes on from, what it refuses, and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from twostage.checkpoint.checkpointer import Checkpointer
from twostage.config import load_config
from twostage.engine.resuming import check_same_run
from twostage.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "data"
    tiny.write_dataset(folder)
    return folder


def config(folder: Path, *opts: str) -> Any:
    return load_config(opts=["OUTPUT_DIR", str(folder), *opts])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that was stopped."""
    (tmp_path / "config.yaml").write_text(config(tmp_path, "SEED", "3").dump())
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    return tmp_path


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("SOLVER.BASE_LR", "0.5", "SOLVER.BASE_LR is 0.5, but the run in .* began with 0.001"),
        ("SOLVER.WEIGHT_DECAY", "0.3", "SOLVER.WEIGHT_DECAY is 0.3"),
        ("SOLVER.ADAMW_BETAS", "(0.8,0.99)", r"SOLVER.ADAMW_BETAS is \[0.8, 0.99\]"),
        ("SOLVER.WARMUP_ITERS", "7", "SOLVER.WARMUP_ITERS is 7"),
        ("SEED", "4", "SEED is 4, .* began with 3"),
        ("MODEL.META_ARCHITECTURE", "CATSeg", "is of SAN, the config of CATSeg"),
    ],
)
def test_values_that_checkpoints_hold_do_not_change(run: Path, key: str, value: str, said: str) -> None:
    """They would have no effect, and config.yaml would say that they had."""
    with pytest.raises(UserError, match=said):
        check_same_run(config(run, "SEED", "3", key, value))
    (run / "last_checkpoint").unlink()
    assert check_same_run(config(run, "SEED", "3", key, value)) == []


def test_values_that_hold_from_now_on_are_told(run: Path) -> None:
    told = check_same_run(
        config(run, "SEED", "3", "SOLVER.MAX_ITER", "9", "SOLVER.AMP.ENABLED", "True", "DATASETS.TRAIN", "('toybox_train',)",
               "TEST.EVAL_PERIOD", "3", "DATALOADER.NUM_WORKERS", "0", "MODEL.MASK_LOSS.MASK_WEIGHT", "2.5")
    )  # fmt: skip
    assert told == ["DATASETS.TRAIN ['toybox_train'] (was [])", "MODEL.MASK_LOSS.MASK_WEIGHT 2.5 (was 5.0)"]
    assert check_same_run(config(run, "SEED", "3")) == []


def test_a_config_of_other_code_is_not_compared(run: Path) -> None:
    for text in ("[1, 2]", ":\n: {", yaml.safe_dump({"SOLVER": {"LEARNING_RATE": 3}})):
        (run / "config.yaml").write_text(text)
        assert check_same_run(config(run, "SOLVER.BASE_LR", "0.5")) == []


def test_the_last_checkpoint_can_not_be_gone_on_from(data: Path, tmp_path: Path) -> None:
    """Named wrongly, gone, or cut off: the way out names another one; nothing is taken in its place by itself."""
    tiny.build_trainer(tiny.tiny_config(data, tmp_path, SOLVER__CHECKPOINT_PERIOD=1)).train()
    note = tmp_path / "last_checkpoint"
    trainer = tiny.build_trainer(tiny.tiny_config(data, tmp_path))
    for content, said in (
        (b"model_gone.pth", "names 'model_gone.pth', which is not there"),
        (b"", "names no file"),
        (b"\xa9\x00", "names no file"),
        (b".", r"names '\.', which is not there"),
    ):
        note.write_bytes(content)
        with pytest.raises(
            UserError, match=said + "; to go on from another checkpoint, write its name, such as model_0000003"
        ):
            trainer.resume_or_load(resume=True)
    last = tmp_path / "model_0000003.pth"
    for size in (last.stat().st_size // 2, 0):
        note.write_text(last.name)
        last.write_bytes(last.read_bytes()[:size])
        with pytest.raises(
            UserError, match=r"model_0000003\.pth' is (truncated or damaged|empty); .* such as model_0000002"
        ):
            trainer.resume_or_load(resume=True)
    note.write_text("model_0000002.pth\n")
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 3


def test_checkpoints_that_nothing_names_are_told(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny.build_trainer(tiny.tiny_config(data, tmp_path)).train()
    (tmp_path / "last_checkpoint").unlink()
    trainer = tiny.build_trainer(tiny.tiny_config(data, tmp_path))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 0
    assert "Starting from the beginning" in caplog.text and "no last_checkpoint names one" in caplog.text
    assert (
        Checkpointer(trainer.module, str(tmp_path / "empty")).other_checkpoints("x").startswith("; put the file back")
    )


def test_what_a_killed_run_was_writing_is_removed(data: Path, tmp_path: Path) -> None:
    """It may be as large as a checkpoint, and its name is hidden."""
    left = [tmp_path / ".model_0000003.pth.17-5.tmp", tmp_path / ".model_final.pth.17-5.tmp"]
    kept = [tmp_path / "model_0000002.pth", tmp_path / ".config.yaml.17-5.tmp", tmp_path / ".model_notes"]
    for file in (*left, *kept):
        file.write_bytes(b"x")
    tiny.build_trainer(tiny.tiny_config(data, tmp_path)).resume_or_load(resume=True)
    assert [file.exists() for file in (*left, *kept)] == [False, False, True, True, True]
