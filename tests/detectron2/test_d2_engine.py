"""Training, checkpoints, events, processes."""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import (
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    default_argument_parser,
    default_setup,
    hooks,
    launch,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, JSONWriter, get_event_storage
from detectron2.utils.memory import retry_if_cuda_oom
from torch import nn


class Regression(nn.Module):
    """Fits batches of (x, y); in evaluation, returns the input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, batch: Any) -> Any:
        if not self.training:
            return batch
        error = self.layer(batch) - batch.sum(dim=1, keepdim=True)
        return {"loss_square": error.square().mean(), "loss_size": 0.01 * self.layer.weight.square().sum()}


def batches() -> Any:
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randn(4, 2, generator=generator)


class Count(DatasetEvaluator):
    def reset(self) -> None:
        self.count = 0

    def process(self, inputs: Any, outputs: Any) -> None:
        self.count += len(inputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        return {"count": {"all": float(self.count), "all-half": self.count / 2}}


class Trainer(DefaultTrainer):
    @classmethod
    def build_model(cls, cfg: Any) -> nn.Module:
        torch.manual_seed(cfg.SEED)
        return Regression()

    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        return batches()

    @classmethod
    def build_test_loader(cls, cfg: Any, dataset_name: str) -> Any:
        return [[1, 2], [3]]

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> DatasetEvaluator:
        return Count()


def config(folder: Path) -> Any:
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR, cfg.SEED = "cpu", str(folder), 3
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 6, 2, 3
    cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.BASE_LR = (), 0, 0.1
    cfg.DATASETS.TEST = ("some",)
    return cfg


def test_default_trainer_run_and_resume(tmp_path: Path) -> None:
    trainer = Trainer(config(tmp_path))
    trainer.resume_or_load(resume=False)
    assert trainer.train() is None
    assert trainer.iter == 6
    names = {f"model_{n:07d}.pth" for n in (1, 3, 5)} | {"model_final.pth", "last_checkpoint", "metrics.json"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    assert any(path.name.startswith("events.out.tfevents") for path in tmp_path.iterdir())
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert {line["iteration"]: line["count/all"] for line in lines if "count/all" in line} == {2: 3.0, 6: 3.0}
    last = next(line for line in lines if line["iteration"] == 5)
    assert {"data_time", "eta_seconds", "loss_size", "loss_square", "lr", "time", "total_loss"} <= set(last)

    content = torch.load(tmp_path / "model_0000003.pth", weights_only=True)
    assert set(content) == {"model", "trainer", "iteration"} and content["iteration"] == 3
    assert content["trainer"]["hooks"] == {"LRScheduler": {"base_lrs": [0.1], "last_epoch": 4}}
    assert set(content["trainer"]["_trainer"]) == {"iteration", "optimizer"}

    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    resumed = Trainer(config(tmp_path))
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 4 and resumed.scheduler.last_epoch == 4
    assert resumed.optimizer.state_dict()["state"][0]["momentum_buffer"].abs().sum() > 0
    for name, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, content["model"][name], rtol=0, atol=0)
    fresh = Trainer(config(tmp_path))
    fresh.resume_or_load(resume=False)
    assert fresh.start_iter == 0


def test_expected_results(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.TEST.EXPECTED_RESULTS = [["count", "all", 3.0, 0.1]]
    assert Trainer(cfg).train() == {"count": {"all": 3.0, "all-half": 1.5}}
    cfg.TEST.EXPECTED_RESULTS = [["count", "all", 4.0, 0.1]]
    with pytest.raises(SystemExit) as stopped:
        Trainer(cfg).train()
    assert stopped.value.code == 1


class Calls(HookBase):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def before_train(self) -> None:
        self.calls.append("before_train")

    def after_train(self) -> None:
        self.calls.append(f"after_train {self.trainer.iter}")

    def before_step(self) -> None:
        self.calls.append(f"before {self.trainer.iter}")

    def after_backward(self) -> None:
        self.calls.append("backward")

    def after_step(self) -> None:
        assert self.trainer.storage.iter == self.trainer.iter
        self.calls.append(f"after {self.trainer.iter}")


def test_hooks_of_simple_trainer() -> None:
    model = Regression()
    trainer, calls = SimpleTrainer(model, batches(), torch.optim.SGD(model.parameters(), lr=0.1)), Calls()
    trainer.register_hooks([calls, None])
    trainer.train(3, 5)
    expected = ["before_train", "before 3", "backward", "after 3", "before 4", "backward", "after 4", "after_train 5"]
    assert calls.calls == expected
    latest = trainer.storage.latest()
    total = latest["loss_square"][0] + latest["loss_size"][0]
    assert latest["total_loss"] == (pytest.approx(total), 4)


def test_after_train_runs_after_a_failure() -> None:
    class Failing(TrainerBase):
        def run_step(self) -> None:
            if self.iter == 1:
                raise KeyError("broken")

    trainer, calls, evaluated = Failing(), Calls(), []
    trainer.register_hooks([calls, hooks.EvalHook(0, lambda: evaluated.append(1))])
    with pytest.raises(KeyError):
        trainer.train(0, 5)
    assert calls.calls[-1] == "after_train 1" and not evaluated


def test_infinite_losses_and_eval_mode() -> None:
    model = Regression()
    trainer = SimpleTrainer(model, iter([torch.full((1, 2), float("nan"))]), torch.optim.SGD(model.parameters(), lr=1))
    with pytest.raises(FloatingPointError, match="iteration=0"):
        trainer.train(0, 1)
    model.eval()
    with pytest.raises(AssertionError):
        trainer.train(0, 1)


def test_best_checkpoint_and_eval_hook(tmp_path: Path) -> None:
    class Idle(TrainerBase):
        def run_step(self) -> None: ...

    trainer, values = Idle(), iter([1.0, 3.0, 2.0])
    saver = DetectionCheckpointer(Regression(), str(tmp_path))
    trainer.register_hooks(
        [
            hooks.EvalHook(2, lambda: {"sem_seg": {"mIoU": next(values)}}),
            hooks.BestCheckpointer(2, saver, "sem_seg/mIoU"),
        ]
    )
    trainer.train(0, 6)
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 3
    broken = Idle()
    broken.register_hooks([hooks.EvalHook(0, lambda: {"task": {"metric": "text"}})])
    with pytest.raises(ValueError):
        broken.train(0, 1)


def test_event_storage(tmp_path: Path) -> None:
    writer = JSONWriter(str(tmp_path / "metrics.json"), window_size=2)
    with EventStorage(10) as storage:
        assert get_event_storage() is storage
        for value in (1.0, 5.0, 2.0):
            storage.put_scalars(loss=value)
            storage.put_scalar("lr", value, smoothing_hint=False)
            storage.step()
        with storage.name_scope("inner"):
            storage.put_scalar("x", 1)
        assert storage.history("loss").values() == [(1.0, 10), (5.0, 11), (2.0, 12)]
        assert storage.latest() == {"loss": (2.0, 12), "lr": (2.0, 12), "inner/x": (1.0, 13)}
        assert storage.latest_with_smoothing_hint(2)["loss"] == (3.5, 12)
        writer.write()
        writer.write()
        with pytest.raises(AssertionError):
            storage.put_scalar("lr", 1.0)
    writer.close()
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"iteration": 12, "loss": 3.5, "lr": 2.0},
        {"inner/x": 1.0, "iteration": 13},
    ]
    with pytest.raises(AssertionError):
        get_event_storage()


def test_checkpointer(tmp_path: Path) -> None:
    model = Regression()
    DetectionCheckpointer(model, str(tmp_path)).save("one", extra=5)
    other = nn.Module()
    other.inner = Regression()
    stripped = {f"module.{name}": value for name, value in other.state_dict().items()}
    torch.save(stripped, tmp_path / "bare.pth")
    loaded = Regression()
    saver = DetectionCheckpointer(loaded, str(tmp_path))
    assert saver.has_checkpoint() and saver.get_checkpoint_file() == str(tmp_path / "one.pth")
    assert saver.load(str(tmp_path / "one.pth")) == {"extra": 5}
    torch.testing.assert_close(loaded.layer.weight, model.layer.weight)
    target = nn.Module()
    target.inner = Regression()
    DetectionCheckpointer(target).load(str(tmp_path / "bare.pth"))
    torch.testing.assert_close(target.inner.layer.weight, other.inner.layer.weight)
    assert saver.load("") == {}
    with pytest.raises(AssertionError, match="not found"):
        saver.load(str(tmp_path / "missing.pth"))


def test_matching_by_ends_of_names(tmp_path: Path) -> None:
    model = nn.Module()
    model.backbone = Regression()
    source = Regression()
    torch.save({"model": source.state_dict()}, tmp_path / "part.pth")
    before = model.backbone.layer.weight.detach().clone()
    DetectionCheckpointer(model).load(str(tmp_path / "part.pth"))
    torch.testing.assert_close(model.backbone.layer.weight.detach(), before)
    DetectionCheckpointer(model).load(f"{tmp_path / 'part.pth'}?matching_heuristics=True")
    torch.testing.assert_close(model.backbone.layer.weight, source.layer.weight)
    with pytest.raises(ValueError):
        DetectionCheckpointer(model).load(f"{tmp_path / 'part.pth'}?nothing=1")


class _Harmful:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("code of a checkpoint ran",))


@pytest.mark.own_detectron2
@pytest.mark.parametrize("name", ["a.pkl", "a.pyth"])
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    # Upstream unpickles them.
    (tmp_path / name).write_bytes(pickle.dumps({"model": {}, "__author__": _Harmful()}))
    with pytest.raises(ValueError, match="can run code"):
        DetectionCheckpointer(Regression()).load(str(tmp_path / name))


def test_pth_runs_no_code(tmp_path: Path) -> None:
    torch.save({"model": {}, "x": _Harmful()}, tmp_path / "a.pth")
    with pytest.raises(pickle.UnpicklingError):
        DetectionCheckpointer(Regression()).load(str(tmp_path / "a.pth"))


def test_arguments_and_setup(tmp_path: Path) -> None:
    args = default_argument_parser().parse_args(["--config-file", "x.yaml", "--num-gpus", "2", "SEED", "4"])
    assert (args.config_file, args.num_gpus, args.opts, args.resume) == ("x.yaml", 2, ["SEED", "4"], False)
    assert args.dist_url.startswith("tcp://127.0.0.1:") and default_argument_parser().parse_args([]).opts == []
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path / "out"), 11
    default_setup(cfg, argparse.Namespace())
    first = torch.rand(3)
    torch.manual_seed(11)
    torch.testing.assert_close(torch.rand(3), first)
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "out" / "config.yaml"))
    assert (again.SEED, again.SOLVER) == (11, cfg.SOLVER)
    assert "World size: 1" in (tmp_path / "out" / "log.txt").read_text()


def test_retry_without_memory() -> None:
    tries = []

    @retry_if_cuda_oom
    def function(x: torch.Tensor) -> torch.Tensor:
        tries.append(x)
        if len(tries) < 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return x + 1

    assert function(torch.ones(1)).item() == 2 and len(tries) == 3
    with pytest.raises(RuntimeError, match="other"):
        retry_if_cuda_oom(lambda: (_ for _ in ()).throw(RuntimeError("other")))()


def test_single_process() -> None:
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank(), comm.get_local_size()) == (1, 0, 0, 1)
    assert comm.is_main_process() and comm.all_gather("x") == comm.gather("x") == ["x"]
    seen: list[int] = []
    launch(seen.append, 1, args=(4,))
    assert seen == [4]


def test_two_processes(tmp_path: Path) -> None:
    script = Path(__file__).with_name("run_two_processes.py")
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, timeout=120)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    common = {
        "world": 2,
        "gradient": 0.5,
        "gathered": [{"rank": 0}, {"rank": 1}],
        "same_seed": True,
        "shards": [[0, 1, 2], [3, 4]],
    }
    assert first == common | {"local": [0, 2], "to_first": [0, 1], "mean": 0.5}
    assert second == common | {"local": [1, 2], "to_first": [], "mean": None}
