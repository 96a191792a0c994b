"""The hooks of a usual training run."""

from __future__ import annotations

import datetime
import logging
import math
import operator
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as FvcorePeriodicCheckpointer
from fvcore.common.timer import Timer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as TorchLRScheduler

from detectron2.engine.train_loop import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

__all__ = [
    "BestCheckpointer",
    "CallbackHook",
    "EvalHook",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
]

logger = logging.getLogger(__name__)

Callback = Callable[[Any], None]


class CallbackHook(HookBase):
    """Functions, called with the trainer."""

    def __init__(
        self,
        *,
        before_train: Callback | None = None,
        after_train: Callback | None = None,
        before_step: Callback | None = None,
        after_step: Callback | None = None,
    ) -> None:
        self._callbacks = {
            "before_train": before_train,
            "after_train": after_train,
            "before_step": before_step,
            "after_step": after_step,
        }

    def _call(self, when: str) -> None:
        callback = self._callbacks[when]
        if callback is not None:
            callback(self.trainer)

    def before_train(self) -> None:
        self._call("before_train")

    def after_train(self) -> None:
        self._call("after_train")
        # They may hold the trainer in turn.
        self._callbacks.update(before_train=None, after_train=None)

    def before_step(self) -> None:
        self._call("before_step")

    def after_step(self) -> None:
        self._call("after_step")


class IterationTimer(HookBase):
    """Records "time" per iteration, hooks that are registered after it excluded, and logs the speed at the end.

    To be registered first.
    """

    def __init__(self, warmup_iter: int = 3) -> None:
        """
        Args:
            warmup_iter: the first iterations, which are slower, are left out.
        """
        self._warmup_iter = warmup_iter
        self._step = Timer()
        self._total = Timer()
        self._start = time.perf_counter()

    def before_train(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._total.reset()
        self._total.pause()

    def before_step(self) -> None:
        self._step.reset()
        self._total.resume()

    def after_step(self) -> None:
        done = self.trainer.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step.seconds())
            self._total.pause()
        else:
            self._restart()

    def after_train(self) -> None:
        counted = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        total, training = time.perf_counter() - self._start, self._total.seconds()
        if counted > 0 and training > 0:
            logger.info(
                "Overall training speed: %d iterations in %s (%.4f s / it)",
                counted,
                datetime.timedelta(seconds=int(training)),
                training / counted,
            )
        logger.info(
            "Total training time: %s (%s on hooks)",
            datetime.timedelta(seconds=int(total)),
            datetime.timedelta(seconds=int(total - training)),
        )


class PeriodicWriter(HookBase):
    """Lets writers write every `period` iterations and after training, when it also closes them."""

    def __init__(self, writers: Sequence[EventWriter], period: int = 20) -> None:
        assert all(isinstance(writer, EventWriter) for writer in writers), "PeriodicWriter takes EventWriters"
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._period == 0 or self.trainer.iter == self.trainer.max_iter - 1:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            # What hooks recorded after the last iteration, such as an evaluation.
            writer.write()
            writer.close()


class PeriodicCheckpointer(FvcorePeriodicCheckpointer, HookBase):
    """fvcore's `PeriodicCheckpointer`, run by the trainer."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Saves a checkpoint when an evaluation metric is better than ever. To be registered after `EvalHook`."""

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        """
        Args:
            val_metric: name in the storage, e.g. "sem_seg/mIoU".
            mode: "max" or "min": what is better.
        """
        assert mode in ("max", "min"), f"mode is 'max' or 'min', not {mode!r}"
        self._period = eval_period
        self._checkpointer = checkpointer
        self._metric = val_metric
        self._is_better = operator.gt if mode == "max" else operator.lt
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def _check(self) -> None:
        latest = self.trainer.storage.latest().get(self._metric)
        if latest is None:
            logger.warning("BestCheckpointer: there is no metric '%s' yet", self._metric)
            return
        value, iteration = latest
        if not math.isfinite(value) or (self.best_metric is not None and not self._is_better(value, self.best_metric)):
            return
        logger.info("%s is %.5f at iteration %d, the best so far", self._metric, value, iteration)
        self.best_metric, self.best_iter = value, iteration
        self._checkpointer.save(self._file_prefix, iteration=iteration)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._check()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._check()


class LRScheduler(HookBase):
    """Steps the schedule after each iteration, and records "lr" as it was in that iteration."""

    def __init__(self, optimizer: Optimizer | None = None, scheduler: TorchLRScheduler | None = None) -> None:
        """
        Args:
            optimizer, scheduler: default: the trainer's.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._group = 0

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer  # type: ignore[attr-defined]
        self._group = self._representative_group(self._optimizer)

    @staticmethod
    def _representative_group(optimizer: Optimizer) -> int:
        """The group with the most parameters; where all hold a single one, the first with the most common rate."""
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in optimizer.param_groups]
        return rates.index(Counter(rates).most_common()[0][0])

    def after_step(self) -> None:
        assert self._optimizer is not None
        rate = self._optimizer.param_groups[self._group]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    @property
    def scheduler(self) -> TorchLRScheduler:
        """The schedule."""
        return self._scheduler or self.trainer.scheduler  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        logger.info("Loading scheduler from state_dict ...")
        self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Calls an evaluation function every so many iterations and after a complete training, and records its results."""

    def __init__(
        self, eval_period: int, eval_function: Callable[[], dict[str, Any] | None], eval_after_train: bool = True
    ) -> None:
        """
        Args:
            eval_period: in iterations; 0: only after training.
            eval_function: returns a nested dict of numbers; must be called in all processes.
        """
        self._period = eval_period
        self._func: Callable[[], dict[str, Any] | None] | None = eval_function
        self._eval_after_train = eval_after_train

    def _evaluate(self) -> None:
        assert self._func is not None
        results = self._func()
        if results:
            assert isinstance(results, dict), f"an evaluation returns a dict, not {type(results).__name__}"
            for name, value in flatten_results_dict(results).items():
                try:
                    number = float(value)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"an evaluation returns a nested dict of numbers; {name} is {value!r}") from error
                self.trainer.storage.put_scalar(name, number, smoothing_hint=False)
        # Processes that are done earlier must not start the next iteration: a gradient exchange may time out.
        comm.synchronize()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        # The last one is left to after_train.
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        # Not after a failure.
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._evaluate()
        # It usually holds the trainer.
        self._func = None
