"""The trainer: resuming, several processes, checkpoints, bad losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from detectron2.utils.events import EventStorage

from twostage.engine.step import TrainingStep
from twostage.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "data"
    tiny.write_dataset(folder)
    return folder


def weights(trainer: tiny.Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.module.state_dict().items()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_is_bit_exact(data: Path, tmp_path: Path, workers: int) -> None:
    changes = {"MODEL__CLIP__NAME": "noise", "SOLVER__EMA__ENABLED": True, "SOLVER__EMA__DECAY": 0.9}
    whole = tiny.build_trainer(tiny.tiny_config(data, tmp_path / "whole", **changes), tiny.EveryIteration)
    whole.train()

    class Killed(tiny.EveryIteration):
        def before_step(self) -> None:
            super().before_step()
            if self.iter == 2:
                raise KeyboardInterrupt

    changes |= {"DATALOADER__NUM_WORKERS": workers, "TEST__EVAL_PERIOD": 1}
    cfg = tiny.tiny_config(data, tmp_path / "parts", **changes)
    with pytest.raises(KeyboardInterrupt):
        tiny.build_trainer(cfg, Killed).train()
    # Another initialisation, so that only the checkpoint can make it right; another seed, so that the stored one counts.
    cfg.SEED = 99
    second = tiny.build_trainer(cfg, tiny.EveryIteration)
    second.resume_or_load(resume=True)
    assert second.start_iter == 2
    second.train()

    assert second.history == whole.history[2:]
    assert_equal(weights(second), weights(whole))
    assert_equal(second.ema.state_dict(), whole.ema.state_dict())
    for one, other in zip(
        second.optimizer.state_dict()["state"].values(), whole.optimizer.state_dict()["state"].values(), strict=True
    ):
        assert_equal(one, other)
    files = [torch.load(tmp_path / run / "model_final.pth", weights_only=True) for run in ("whole", "parts")]
    assert_equal(files[0]["model"], files[1]["model"])
    assert files[0]["trainer"]["hooks"] == files[1]["trainer"]["hooks"]


def test_random_seed_is_stored_and_resumed(data: Path, tmp_path: Path) -> None:
    cfg = tiny.tiny_config(data, tmp_path)
    cfg.SEED = -1
    first = tiny.TinyTrainer(cfg)
    first.train()
    second = tiny.TinyTrainer(cfg)
    assert second.seed != first.seed
    second.resume_or_load(resume=True)
    assert second.seed == first.seed
    assert second.start_iter == 4


def test_without_resume_starts_anew(data: Path, tmp_path: Path) -> None:
    cfg = tiny.tiny_config(data, tmp_path)
    tiny.build_trainer(cfg).train()
    again = tiny.build_trainer(cfg)
    fresh = weights(again)
    again.resume_or_load(resume=False)
    assert again.start_iter == 0
    assert_equal(weights(again), fresh)


def test_longer_schedule_on_resume_follows_the_config(data: Path, tmp_path: Path) -> None:
    tiny.build_trainer(tiny.tiny_config(data, tmp_path)).train()
    longer = tiny.build_trainer(tiny.tiny_config(data, tmp_path, SOLVER__MAX_ITER=8, SOLVER__CHECKPOINTS_KEPT=2))
    longer.resume_or_load(resume=True)
    assert longer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * (1 - 4 / 8) ** 0.9)
    longer.train()
    assert longer.optimizer.param_groups[0]["lr"] == 0
    assert sorted(path.name for path in tmp_path.glob("model_0*")) == ["model_0000005.pth", "model_0000007.pth"]


def test_checkpoints_kept_and_metrics_written(data: Path, tmp_path: Path) -> None:
    changes = {"SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__CHECKPOINTS_KEPT": 2, "TEST__EVAL_PERIOD": 2}
    results = tiny.build_trainer(tiny.tiny_config(data, tmp_path, **changes)).train()
    names = sorted(path.name for path in tmp_path.iterdir() if "model" in path.name)
    assert names == ["model_0000002.pth", "model_0000003.pth", "model_final.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert any(path.name.startswith("events.out.tfevents") for path in tmp_path.iterdir())
    lines = tiny.read_metrics(tmp_path)
    evaluated = {line["iteration"]: line["count/images"] for line in lines if "count/images" in line}
    assert evaluated == {1: 7.0, 4: 7.0}
    assert {"total_loss", "loss_seg", "loss_small", "lr", "data_time"} <= set().union(*lines)
    assert results["count"]["images"] == 7


def test_nan_loss_saves_weights_and_names_files(data: Path, tmp_path: Path) -> None:
    class Poisoned(tiny.EveryIteration):
        def run_step(self) -> None:
            if self.iter == 3:
                self.before_bad = weights(self)
                self.module.head.register_forward_hook(lambda module, inputs, output: output * float("nan"))
            super().run_step()

    trainer = tiny.build_trainer(tiny.tiny_config(data, tmp_path), Poisoned)
    with pytest.raises(UserError) as caught:
        trainer.train()
    message = str(caught.value)
    assert "\n" not in message
    assert "iteration 3" in message and "loss_seg nan" in message and "loss_small" in message
    assert message.count(".png") == 4 and str(data / "images") in message
    saved = torch.load(tmp_path / "model_nan.pth", weights_only=True)
    assert_equal(saved["model"], trainer.before_bad)
    assert saved["iteration"] == saved["trainer"]["iteration"] == 2
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_mixed_precision_clips_unscaled_gradients(data: Path, tmp_path: Path, precision: torch.dtype) -> None:
    def moved(precision: torch.dtype | None) -> dict[str, torch.Tensor]:
        changes = {
            "SOLVER__OPTIMIZER": "SGD",
            "SOLVER__BASE_LR": 1.0,
            "SOLVER__WEIGHT_DECAY": 0.0,
            "SOLVER__MOMENTUM": 0.0,
        }
        cfg = tiny.tiny_config(data, tmp_path, **changes, SOLVER__CLIP_GRADIENTS__CLIP_VALUE=0.01)
        model = tiny.build_trainer(cfg).module
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        step = TrainingStep(
            model=model,
            data_loader=tiny.TinyTrainer.build_train_loader(cfg),
            optimizer=tiny.TinyTrainer.build_optimizer(cfg, model),
            precision=precision,
        )
        with EventStorage(0):
            step.run_step()
        assert ("grad_scaler" in step.state_dict()) == (precision is torch.float16)
        return {name: (p - before[name]).detach() for name, p in model.named_parameters()}

    exact, mixed = moved(None), moved(precision)
    length = torch.cat([change.flatten() for change in mixed.values()]).norm()
    assert length.item() == pytest.approx(0.01, rel=1e-3)
    for name in exact:
        assert (mixed[name] - exact[name]).abs().max() < 0.05 * 0.01, name
    assert any(not torch.equal(mixed[name], exact[name]) for name in exact)


def test_mixed_precision_is_off_on_the_cpu(data: Path, tmp_path: Path) -> None:
    cfg = tiny.tiny_config(data, tmp_path, SOLVER__AMP__ENABLED=True)
    assert tiny.build_trainer(cfg)._trainer.precision is None


def test_resume_refuses_another_setting(data: Path, tmp_path: Path) -> None:
    tiny.build_trainer(tiny.tiny_config(data, tmp_path)).train()
    other = tiny.build_trainer(tiny.tiny_config(data, tmp_path, SOLVER__WEIGHT_DECAY_EMBED=0.5))
    with pytest.raises(UserError, match="can't be resumed"):
        other.resume_or_load(resume=True)


def run_processes(folder: Path, processes: int, mode: str = "plain") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(tiny.__file__)), str(folder), str(processes), mode]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_two_processes_equal_one(data: Path) -> None:
    results = []
    for processes in (1, 2):
        folder = data.parent / f"processes{processes}"
        folder.mkdir()
        ran = run_processes(folder, processes)
        assert ran.returncode == 0, ran.stderr
        results.append(json.loads((folder / "result.json").read_text()))
    one, two = results
    assert [step["samples"] for step in one["history"]] == [step["samples"] for step in two["history"]]
    assert len(one["history"]) == 4 and all(len(step["samples"]) == 4 for step in one["history"])
    for name in ("total_loss", "loss_seg", "loss_small"):
        expected = [step[name] for step in one["history"]]
        assert [step[name] for step in two["history"]] == pytest.approx(expected, rel=1e-5)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=1e-5)
    assert two["results"] == one["results"]
    assert one["results"]["count"]["images"] == 7
    # A gloo thread that outlives its group may abort the process while the interpreter shuts down.
    threads = [name for rank in range(2) for name in json.loads((folder / f"threads{rank}.json").read_text())]
    assert len(threads) >= 2 and not any("gloo" in name for name in threads)


def test_san_losses_of_two_processes_equal_one(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The random points differ between runs of one and of two processes, so here all runs take the same fixed points.
    folder = data.parent / "san"
    folder.mkdir()
    ran = run_processes(folder, 2, "san")
    assert ran.returncode == 0, ran.stderr
    two = json.loads((folder / "result.json").read_text())["history"]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", tiny.spread_points)
        trainer = tiny.build_trainer(tiny.san_config(data, data.parent / "san_one"), tiny.EveryIteration)
        trainer.train()
    one = trainer.history
    assert [step["samples"] for step in two] == [[list(sample) for sample in step["samples"]] for step in one]
    # Every loss is divided by what all processes have together, so the first step is equal to rounding and the later
    # ones stay close.
    for name in ("loss_ce", "loss_mask", "loss_dice", "loss_ce_0", "loss_mask_0", "loss_dice_0"):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-5), name
    for first, second in zip(one, two, strict=True):
        assert second["total_loss"] == pytest.approx(first["total_loss"], rel=1e-3)


def test_user_error_in_spawned_process_is_one_line_with_exit_code_2(data: Path) -> None:
    folder = data.parent / "nan"
    folder.mkdir()
    ran = run_processes(folder, 2, "nan")
    assert ran.returncode == 2
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("error: the loss is not finite in iteration 1 (")
    assert last.count(".png") == 4
    assert "Traceback" not in ran.stderr
    assert (folder / "model_nan.pth").is_file()
