"""The evaluation loop and what it feeds."""

from __future__ import annotations

import contextlib
import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from detectron2.utils.comm import get_world_size, is_main_process

logger = logging.getLogger(__name__)

# Batches that are left out of the times, and seconds between lines of progress.
_WARM_UP = 5
_LOG_INTERVAL = 5


class DatasetEvaluator:
    """Base class: sees all inputs and outputs of a dataset, then gives results."""

    def reset(self) -> None:
        """Start over."""

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Take in a batch: what the model got and what it returned."""

    def evaluate(self) -> dict[str, Any] | None:
        """The results, task -> metric -> value, on rank 0; the others may return None."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """All results together. AssertionError where two evaluators give the same task."""
        results: dict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            own = evaluator.evaluate()
            if is_main_process() and own is not None:
                for task, metrics in own.items():
                    assert task not in results, f"two evaluators give results for '{task}'"
                    results[task] = metrics
        return results


class _Progress:
    """Times of loading, inference and evaluation, and lines about them."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.warm_up = min(_WARM_UP, total - 1)
        self.start = time.perf_counter()
        self.seconds = {"Dataloading": 0.0, "Inference": 0.0, "Eval": 0.0}
        self._last_line = 0.0
        self._tick = self.start

    def passed(self, phase: str) -> None:
        """The time since the last call went into `phase`."""
        now = time.perf_counter()
        self.seconds[phase] += now - self._tick
        self._tick = now

    def finished(self, index: int) -> None:
        """Batch `index` is done."""
        if index < self.warm_up:
            self.start = self._tick
            self.seconds = dict.fromkeys(self.seconds, 0.0)
            return
        if index < 2 * self.warm_up or self._tick - self._last_line < _LOG_INTERVAL:
            return
        self._last_line = self._tick
        counted = index + 1 - self.warm_up
        each = (self._tick - self.start) / counted
        phases = " ".join(f"{name}: {value / counted:.4f} s/iter." for name, value in self.seconds.items())
        eta = datetime.timedelta(seconds=int(each * (self.total - index - 1)))
        logger.info("Inference done %d/%d. %s Total: %.4f s/iter. ETA=%s", index + 1, self.total, phases, each, eta)

    def log_totals(self) -> None:
        counted = max(self.total - self.warm_up, 1)
        for what, seconds in (
            ("inference time", time.perf_counter() - self.start),
            ("inference pure compute time", self.seconds["Inference"]),
        ):
            total, devices = datetime.timedelta(seconds=int(seconds)), get_world_size()
            logger.info(
                "Total %s: %s (%.6f s / iter per device, on %d devices)", what, total, seconds / counted, devices
            )


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Iterable[Any],
    evaluator: DatasetEvaluator | Sequence[DatasetEvaluator] | None,
    callbacks: Mapping[str, Callable] | None = None,
) -> dict[str, Any]:
    """Run a model, in evaluation mode and without gradients, over a loader, and evaluate its outputs.

    Args:
        model: a module (its mode is restored afterwards) or a function.
        data_loader: has a length.
        callbacks: functions without arguments by the time they are called at: on_start, before_inference,
            after_inference, on_end.

    Returns:
        the evaluator's results; empty where it gave none.
    """
    callbacks = callbacks or {}
    call: Callable[[str], Any] = lambda when: callbacks.get(when, lambda: None)()  # noqa: E731
    if not isinstance(evaluator, DatasetEvaluator):
        evaluator = DatasetEvaluators(evaluator or [])
    total = len(data_loader)  # type: ignore[arg-type]
    logger.info("Start inference on %d batches", total)
    evaluator.reset()
    progress = _Progress(total)
    with contextlib.ExitStack() as modes:
        if isinstance(model, nn.Module):
            modes.enter_context(inference_context(model))
        modes.enter_context(torch.no_grad())
        call("on_start")
        for index, inputs in enumerate(data_loader):
            progress.passed("Dataloading")
            call("before_inference")
            outputs = model(inputs)
            call("after_inference")
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            progress.passed("Inference")
            evaluator.process(inputs, outputs)
            progress.passed("Eval")
            progress.finished(index)
        call("on_end")
    progress.log_totals()
    return evaluator.evaluate() or {}


@contextlib.contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode inside the block, and as before after it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
