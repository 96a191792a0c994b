"""SIGTERM or Ctrl-C in training: the step ends, a checkpoint is saved, `--resume` ends where an undisturbed run does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import tiny
import torch

from twostage.engine.preemption import Interrupted, Preempted


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven small images."""
    folder = tmp_path_factory.mktemp("tiny") / "data"
    tiny.write_dataset(folder)
    return folder


def signal_in_step(trainer: tiny.TinyTrainer, at: int, number: int = signal.SIGTERM) -> None:
    """Have the trainer send a signal to its own process in the middle of iteration `at`."""
    run_step = trainer.run_step

    def step() -> None:
        if trainer.iter == at:
            os.kill(os.getpid(), number)
        run_step()

    trainer.run_step = step  # type: ignore[method-assign]


@pytest.mark.parametrize(("at", "number"), [(0, signal.SIGTERM), (2, signal.SIGTERM), (1, signal.SIGINT)])
def test_resumed_after_a_signal_within_a_step(data: Path, tmp_path: Path, at: int, number: int) -> None:
    torch.manual_seed(0)
    whole = tiny.build_trainer(tiny.tiny_config(data, tmp_path / "whole"))
    whole.train()
    before = signal.getsignal(number)
    cfg = tiny.tiny_config(data, tmp_path / "parts")
    torch.manual_seed(0)
    stopped = tiny.build_trainer(cfg)
    signal_in_step(stopped, at, number)
    with pytest.raises(Interrupted if number == signal.SIGINT else Preempted) as leaving:
        stopped.train()
    assert getattr(leaving.value, "code", 143) == 143 and signal.getsignal(number) is before
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == f"model_{at:07d}.pth"
    resumed = tiny.build_trainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == at + 1
    resumed.train()
    for name, value in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], value), name


def test_before_the_first_step_nothing_is_saved(data: Path, tmp_path: Path) -> None:
    trainer = tiny.build_trainer(tiny.tiny_config(data, tmp_path))
    trainer.preemption.before_step = lambda: os.kill(os.getpid(), signal.SIGTERM)  # type: ignore[method-assign]
    with pytest.raises(Preempted):
        trainer.train()
    assert not (tmp_path / "last_checkpoint").exists()


def test_asked_again_while_the_checkpoint_is_saved(data: Path, tmp_path: Path) -> None:
    """Schedulers that wait send the signal more than once."""
    trainer = tiny.build_trainer(tiny.tiny_config(data, tmp_path))
    signal_in_step(trainer, 1)
    save = trainer.checkpointer.save

    def slow_save(name: str, **values: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        save(name, **values)

    trainer.checkpointer.save = slow_save  # type: ignore[method-assign]
    with pytest.raises(Preempted):
        trainer.train()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_interrupted_once_more_nothing_is_waited_for(data: Path, tmp_path: Path) -> None:
    trainer = tiny.build_trainer(tiny.tiny_config(data, tmp_path))

    def step() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    trainer.run_step = step  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as leaving:
        trainer.train()
    assert not isinstance(leaving.value, Interrupted) and signal.getsignal(signal.SIGINT) is before
    assert trainer.iter == 0 and not (tmp_path / "last_checkpoint").exists()


def test_stopped_between_the_last_step_and_the_final_checkpoint(data: Path, tmp_path: Path) -> None:
    cfg = tiny.tiny_config(data, tmp_path)
    whole = tiny.build_trainer(cfg)
    whole.train()
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    last = cfg.SOLVER.MAX_ITER - 1
    stopped = tiny.build_trainer(cfg)
    stopped.resume_or_load(resume=True)
    stopped._save_as_of(f"model_{last:07d}", last)
    (tmp_path / "model_final.pth").unlink()
    resumed = tiny.build_trainer(cfg)
    resumed.resume_or_load(resume=True)
    resumed.train()
    again = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert again["iteration"] == final["iteration"] == last == again["trainer"]["iteration"]
    assert all(torch.equal(value, again["model"][name]) for name, value in final["model"].items())
