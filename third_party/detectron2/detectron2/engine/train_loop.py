"""Training loops and the hooks that run in them."""

from __future__ import annotations

import concurrent.futures
import logging
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]


class HookBase:
    """Something that is done at certain times of the training; `self.trainer` is set when it is registered.

    One iteration calls before_step, run_step with after_backward in it, and after_step, in that order.
    """

    trainer: TrainerBase = None  # type: ignore[assignment]

    def before_train(self) -> None:
        """Before the first iteration."""

    def after_train(self) -> None:
        """After the last iteration, also after an error."""

    def before_step(self) -> None:
        """Before each iteration."""

    def after_backward(self) -> None:
        """When gradients are there; the inner trainer of a DefaultTrainer, which has no hooks, skips this."""

    def after_step(self) -> None:
        """After each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint should hold; with something in it, `load_state_dict` is needed as well."""
        return {}


class TrainerBase:
    """A loop that calls hooks around `run_step`.

    Attributes:
        iter: the current iteration; after a complete training, `max_iter`.
        start_iter, max_iter: first iteration, and the one after the last.
        storage: what is measured, while training.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0
        self.max_iter = 0
        self.storage: EventStorage
        self._logger = logging.getLogger(__name__)

    def register_hooks(self, hooks: Sequence[HookBase | None]) -> None:
        """Add hooks, which run in this order; None is left out."""
        present = [hook for hook in hooks if hook is not None]
        for hook in present:
            assert isinstance(hook, HookBase), f"{hook!r} is not a HookBase"
            # Hook and trainer would otherwise keep each other, and the GPU's memory, alive.
            hook.trainer = weakref.proxy(self)
        self._hooks.extend(present)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations `start_iter` to `max_iter - 1`."""
        self._logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                # So that hooks can tell a finished training from a failed one.
                self.iter += 1
            except Exception:
                self._logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def _call_hooks(self, when: str) -> None:
        for hook in self._hooks:
            getattr(hook, when)()

    def before_train(self) -> None:
        self._call_hooks("before_train")

    def after_train(self) -> None:
        self.storage.iter = self.iter
        self._call_hooks("after_train")

    def before_step(self) -> None:
        self.storage.iter = self.iter
        self._call_hooks("before_step")

    def after_backward(self) -> None:
        self._call_hooks("after_backward")

    def after_step(self) -> None:
        self._call_hooks("after_step")

    def run_step(self) -> None:
        """One iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The iteration and the state of the hooks, by class name."""
        hooks: dict[str, Any] = {}
        for hook in self._hooks:
            state = hook.state_dict()
            if state:
                hooks.setdefault(type(hook).__qualname__, state)
        return {"iteration": self.iter} | ({"hooks": hooks} if hooks else {})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state; hooks that are not registered are left out with a warning."""
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook = next((hook for hook in self._hooks if type(hook).__qualname__ == name), None)
            if hook is None:
                self._logger.warning("The checkpoint holds the state of a hook %s, which is not registered", name)
            else:
                hook.load_state_dict(state)  # type: ignore[attr-defined]


class SimpleTrainer(TrainerBase):
    """One loader, one optimizer; the model returns its losses."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        """
        Args:
            model: maps a batch to a dict of losses or to one; is set to training mode.
            data_loader: endless.
            gather_metric_period: iterations between reports of the losses, which wait for the GPU and all processes.
            zero_grad_before_forward: instead of before backward.
            async_write_metrics: report in another thread.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self._data_loader_iter_obj: Any = None
        self._reporter = concurrent.futures.ThreadPoolExecutor(max_workers=1) if async_write_metrics else None

    @property
    def _data_loader_iter(self) -> Any:
        # Made late: worker processes start with the first iteration.
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def run_step(self) -> None:
        """Fetch, forward, backward, report, step."""
        data, data_time = self._fetch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        loss_dict, losses = self._losses(self.model(data))
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses.backward()
        self.after_backward()
        self._report(loss_dict, data_time)
        self.optimizer.step()

    def _fetch(self) -> tuple[Any, float]:
        assert self.model.training, f"[{type(self).__name__}] model was changed to eval mode!"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        return data, time.perf_counter() - start

    @staticmethod
    def _losses(output: Tensor | dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The losses by name, and their sum."""
        if isinstance(output, Tensor):
            return {"total_loss": output}, output
        return output, sum(output.values())  # type: ignore[return-value]

    def _report(self, loss_dict: Mapping[str, Tensor], data_time: float) -> None:
        if (self.iter + 1) % self.gather_metric_period:
            return
        if self._reporter is None:
            self.write_metrics(loss_dict, data_time, self.iter)
        else:
            self._reporter.submit(self.write_metrics, loss_dict, data_time, self.iter)

    @staticmethod
    def write_metrics(loss_dict: Mapping[str, Tensor], data_time: float, cur_iter: int, prefix: str = "") -> None:
        """Put the losses, as means over processes, their sum and the longest data time into the storage.

        Raises:
            FloatingPointError: the sum is infinite or NaN.
        """
        metrics = {name: value.detach().cpu().item() for name, value in loss_dict.items()}
        gathered = comm.gather({**metrics, "data_time": data_time})
        if not comm.is_main_process():
            return
        storage = get_event_storage()
        times = [m.pop("data_time") for m in gathered]
        # The slowest process keeps the others waiting.
        storage.put_scalar("data_time", max(times), cur_iter=cur_iter)
        means = {name: float(np.mean([m[name] for m in gathered])) for name in metrics}
        total = sum(means.values())
        if not np.isfinite(total):
            raise FloatingPointError(f"Loss became infinite or NaN at iteration={cur_iter}!\nloss_dict = {means}")
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            for name, mean in means.items():
                storage.put_scalar(name, mean, cur_iter=cur_iter)

    def after_train(self) -> None:
        super().after_train()
        if self._reporter is not None:
            self._reporter.shutdown(wait=True)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """`SimpleTrainer` with mixed precision on a GPU.

    Gradients are unscaled before the optimizer's step, so that clipping inside the optimizer sees their true size.
    Upstream leaves them scaled there.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: Any = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        if isinstance(model, DistributedDataParallel):
            assert len(model.device_ids or []) <= 1, "AMPTrainer takes one GPU per process"
        assert not isinstance(model, DataParallel), "AMPTrainer does not work with DataParallel"
        super().__init__(
            model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward, async_write_metrics
        )
        self.grad_scaler = torch.amp.GradScaler("cuda") if grad_scaler is None else grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def run_step(self) -> None:
        """Fetch, forward in mixed precision, scaled backward, report, step."""
        assert torch.cuda.is_available(), f"[{type(self).__name__}] CUDA is required for AMP training!"
        data, data_time = self._fetch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        with torch.autocast("cuda", dtype=self.precision):
            loss_dict, losses = self._losses(self.model(data))
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self.grad_scaler.scale(losses).backward()
        if self.log_grad_scaler:
            get_event_storage().put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())
        self.after_backward()
        self._report(loss_dict, data_time)
        self.grad_scaler.unscale_(self.optimizer)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
