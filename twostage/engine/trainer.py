"""The trainer: Detectron2's `DefaultTrainer` surface, on our loaders, optimizer, training step and checkpoints."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, default_writers, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from twostage.checkpoint.checkpointer import Checkpointer
from twostage.checkpoint.fingerprint import weights_sha256
from twostage.data.loaders import RecordLoader, TrainingLoader, build_test_loader, build_train_loader
from twostage.engine.ema import EmaHook, ModelEma
from twostage.engine.evaluation import evaluate_dataset
from twostage.engine.hooks import ProgressBar, on_terminal
from twostage.engine.optimizer import build_optimizer
from twostage.engine.preemption import Interrupted, Preempted, PreemptionHook
from twostage.engine.results_table import evaluation_table
from twostage.engine.step import NonFiniteLossError, TrainingStep
from twostage.errors import DamagedFileError, UserError
from twostage.evaluation.building import build_evaluator
from twostage.recomputation import recompute_activations
from twostage.systems.building import build_model

logger = logging.getLogger(__name__)

_PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Trainer(DefaultTrainer):
    """Trains what a config describes; the methods to override are DefaultTrainer's (`build_*`, `test`).

    A run is reproducible from its seed (`SEED`; below 0: a random one, stored in the checkpoint): data order,
    augmentation and the model's random points follow from (seed, iteration, rank), so `resume_or_load(resume=True)`
    goes on exactly where the checkpoint stands.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer's own constructor wraps CPU models for GPUs and knows no other training step, hence not called.
        TrainerBase.__init__(self)
        self.cfg = cfg
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.seed = int(cfg.SEED) if cfg.SEED >= 0 else int(comm.shared_random_seed())
        self.module = self.build_model(cfg)
        if cfg.SOLVER.ACTIVATION_CHECKPOINTING:
            recompute_activations(self.module)
        optimizer = self.build_optimizer(cfg, self.module)
        self._trainer = TrainingStep(
            model=_distributed(self.module),
            data_loader=self.build_train_loader(cfg),
            optimizer=optimizer,
            precision=_precision(cfg),
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(self.module, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.ema: ModelEma | None = None
        if cfg.SOLVER.EMA.ENABLED:
            self.ema = ModelEma(self.module, decay=cfg.SOLVER.EMA.DECAY)
            self.checkpointer.add_checkpointable("ema", self.ema)
        self.results: dict[str, Any] | None = None
        self.preemption = PreemptionHook()
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """See `twostage.systems.building`."""
        model = build_model(cfg)
        logger.info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See `twostage.engine.optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """`SOLVER.LR_SCHEDULER_NAME`: WarmupPolyLR, or one of Detectron2's."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainingLoader:
        """See `twostage.data.loaders`."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str, *, finished: Collection[str] = ()) -> RecordLoader:
        """See `twostage.data.loaders`; `finished` names images that a stopped evaluation already counted."""
        return build_test_loader(cfg, dataset_name, finished=finished)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """See `twostage.evaluation`; results go to `OUTPUT_DIR/inference`."""
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: list[DatasetEvaluator] | DatasetEvaluator | None = None,
        *,
        resume: bool = False,
    ) -> dict[str, Any]:
        """Evaluate `model` on `DATASETS.TEST`; every process takes its part, rank 0 gets the results.

        Args:
            evaluators: one per test set; `build_evaluator` makes them where absent.
            resume: go on with an evaluation of the same weights that was stopped.

        Returns:
            {task: {metric: value}} with one test set, {dataset: {task: {metric: value}}} with several.
        """
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        if evaluators is not None and len(evaluators) != len(cfg.DATASETS.TEST):
            raise ValueError(f"{len(evaluators)} evaluators for the {len(cfg.DATASETS.TEST)} sets of DATASETS.TEST")
        results: dict[str, Any] = OrderedDict()
        weights = weights_sha256(model)
        for index, name in enumerate(cfg.DATASETS.TEST):
            results[name] = evaluate_dataset(
                cfg,
                model,
                name,
                evaluators[index] if evaluators is not None else cls.build_evaluator(cfg, name),
                build_loader=cls.build_test_loader,
                weights=weights,
                resume=resume,
            )
        return next(iter(results.values())) if len(results) == 1 else results

    def build_hooks(self) -> list[HookBase | None]:
        """Timing, EMA, schedule, checkpoints, evaluation, writers and progress, in the order they run."""
        cfg = self.cfg
        main = comm.is_main_process()
        checkpoints = hooks.PeriodicCheckpointer(
            self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=cfg.SOLVER.CHECKPOINTS_KEPT or None
        )
        return [
            hooks.IterationTimer(),
            EmaHook(self.ema) if self.ema else None,
            hooks.LRScheduler(),
            self.preemption,
            # Before evaluation, so that nothing is lost where it fails.
            checkpoints if main else None,
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate),
            hooks.PeriodicWriter(self.build_writers(), period=20) if main else None,
            ProgressBar() if main and on_terminal() else None,
        ]

    def build_writers(self) -> list[EventWriter]:
        """Log lines, `metrics.json` and TensorBoard."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def _evaluate(self) -> dict[str, Any]:
        with self.ema.applied() if self.ema else contextlib.nullcontext():
            self.results = self.test(self.cfg, self.module)
        if self.results and comm.is_main_process() and self.iter < self.max_iter:
            logger.info("After iteration %d:\n%s", self.iter, evaluation_table(self.cfg.DATASETS.TEST, self.results))
        return self.results

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint in OUTPUT_DIR, or (without one, or `resume` False) load MODEL.WEIGHTS.

        Raises:
            UserError: the last checkpoint is missing or damaged, or does not fit the model.
        """
        self.checkpointer.remove_partial()
        if resume and self.checkpointer.has_checkpoint():
            last = self.checkpointer.get_checkpoint_file()
            try:
                self.checkpointer.load(last)
            except DamagedFileError as error:
                raise UserError(f"{str(error).partition(';')[0]}{self.checkpointer.other_checkpoints(last)}") from error
            self.start_iter = self.iter + 1
            self._apply_max_iter()
            self._count_old_checkpoints()
        else:
            if resume:
                self._tell_from_the_beginning()
            self.checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])
        if self.ema and not self.ema.loaded:
            self.ema.reset()

    def _tell_from_the_beginning(self) -> None:
        folder = Path(self.cfg.OUTPUT_DIR)
        if not any(folder.glob("model_*.pth")):
            logger.info("No checkpoint in '%s', starting from the beginning", folder)
            return
        logger.warning(
            "Starting from the beginning: '%s' has checkpoints, but no last_checkpoint names one to go on from%s",
            folder,
            self.checkpointer.other_checkpoints(""),
        )

    def _apply_max_iter(self) -> None:
        """WarmupPolyLR stores its length; where the config has another one by now, the config holds."""
        stored = getattr(self.scheduler, "max_iters", self.max_iter)
        if stored != self.max_iter:
            logger.warning("SOLVER.MAX_ITER is %d, the checkpoint's was %d: new schedule", self.max_iter, stored)
            self.scheduler.max_iters = self.max_iter
            for group, lr in zip(self._trainer.optimizer.param_groups, self.scheduler.get_lr(), strict=True):
                group["lr"] = lr

    def _count_old_checkpoints(self) -> None:
        """The periodic checkpoints of the run's earlier parts count among SOLVER.CHECKPOINTS_KEPT, too."""
        for hook in self._hooks:
            if isinstance(hook, hooks.PeriodicCheckpointer):
                files = Path(self.cfg.OUTPUT_DIR).glob("model_" + 7 * "[0-9]" + ".pth")
                hook.recent_checkpoints = sorted(str(file) for file in files)

    def train(self) -> dict[str, Any] | None:
        """Train from `start_iter` to `max_iter`; returns the last evaluation's results (rank 0).

        Raises:
            UserError: a loss turned NaN or infinite (weights saved as `model_nan.pth`), or unreadable data.
        """
        logger.info("Training from iteration %d to %d, seed %d", self.start_iter, self.max_iter, self.seed)
        self._trainer.seed = self.seed
        self._trainer.data_loader.start_at(iteration=self.start_iter, seed=self.seed)
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < self.max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            except BaseException as error:
                logger.error("Training stopped in iteration %d: %s", self.iter, str(error) or type(error).__name__)
                if isinstance(error, Preempted | Interrupted):
                    self._save_preempted()
                self._close()
                raise
            finally:
                self._trainer.close()
            self._save_final()
            self.after_train()
        return self.results

    def _close(self) -> None:
        """After a failure: write what was measured, but don't evaluate."""
        self.preemption.restore()
        for hook in self._hooks:
            if isinstance(hook, hooks.PeriodicWriter | ProgressBar):
                hook.after_train()

    def _save_final(self) -> None:
        """`model_final.pth`, where the run that took the last step was stopped before it wrote it."""
        if self.start_iter < self.max_iter or not comm.is_main_process() or not self.checkpointer.has_checkpoint():
            return
        if Path(self.checkpointer.get_checkpoint_file()).name != "model_final.pth":
            self._save_as_of("model_final", self.start_iter - 1)

    def _save_as_of(self, name: str, iteration: int) -> None:
        """A checkpoint that goes on behind `iteration`, whatever iteration the trainer is in."""
        now = self.iter
        self.iter = self._trainer.iter = iteration
        self.checkpointer.save(name, iteration=iteration)
        self.iter = self._trainer.iter = now

    def _save_preempted(self) -> None:
        """A checkpoint of the last finished step, where there was one in this run."""
        last = self.preemption.last_iter
        if last is not None and comm.is_main_process():
            self._save_as_of(f"model_{last:07d}", last)

    def run_step(self) -> None:
        """One iteration; see `TrainingStep`."""
        self._trainer.iter = self.iter
        try:
            self._trainer.run_step()
        except NonFiniteLossError as error:
            self._save_before_bad_step()
            losses = ", ".join(f"{name} {value:.4g}" for name, value in error.losses.items())
            raise UserError(
                f"the loss is not finite in iteration {self.iter} ({losses}) with the images "
                f"{', '.join(error.file_names)}; the weights before it are in '{self.cfg.OUTPUT_DIR}/model_nan.pth'; "
                "lower SOLVER.BASE_LR, train in bfloat16 or look at these files"
            ) from None

    def _save_before_bad_step(self) -> None:
        """Write `model_nan.pth`, as of the last good iteration; `--resume` still takes the last regular checkpoint."""
        bad = self.iter
        self.iter = self._trainer.iter = bad - 1
        saver = _UntaggedCheckpointer(self.module, self.cfg.OUTPUT_DIR, **self.checkpointer.checkpointables)
        saver.save("model_nan", iteration=bad - 1)
        self.iter = self._trainer.iter = bad

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        try:
            super().load_state_dict(state_dict)
        except (ValueError, KeyError) as error:  # torch: other parameter groups
            raise UserError(
                f"the checkpoint in '{self.cfg.OUTPUT_DIR}' is of another optimizer or model setting and can't be resumed "
                f"({' '.join(str(error).split())}); use the config it was trained with, or another OUTPUT_DIR"
            ) from error
        self.seed = state_dict.get("seed", self.seed)


class _UntaggedCheckpointer(Checkpointer):
    """Saves without becoming the checkpoint that `--resume` takes."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        pass


def _distributed(model: nn.Module) -> nn.Module:
    """`model`, wrapped where there are several processes; gradients are then means over them."""
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    return DistributedDataParallel(
        model, device_ids=[torch.cuda.current_device()] if on_gpu else None, broadcast_buffers=False
    )


def _precision(cfg: CfgNode) -> torch.dtype | None:
    """Of mixed-precision training; None on the CPU."""
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if not str(cfg.MODEL.DEVICE).startswith("cuda"):
        logger.info("SOLVER.AMP is on but MODEL.DEVICE is '%s': training in float32", cfg.MODEL.DEVICE)
        return None
    return _PRECISIONS[cfg.SOLVER.AMP.PRECISION]
