"""One training step: data, losses, gradients, update; with mixed precision and a check that the losses are finite."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from twostage.data.randomness import derive_seed, seed_everything


class NonFiniteLossError(Exception):
    """A loss is NaN or infinite; raised on all processes alike, before the weights change."""

    def __init__(self, losses: dict[str, float], file_names: list[str]) -> None:
        super().__init__(f"losses {losses}, files {file_names}")
        self.losses = losses
        self.file_names = file_names


class TrainingStep(SimpleTrainer):
    """Detectron2's inner trainer with three differences.

    Random numbers that the model draws follow from (seed, iteration, rank), so a resumed run draws the same. Gradients
    are unscaled before `optimizer.step`, which may clip them. Losses are averaged over processes before the check, so
    that all processes agree that a loss is not finite.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        precision: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            precision: of mixed-precision training (float16 takes a gradient scaler); None is full precision.
        """
        super().__init__(model, data_loader, optimizer)
        self.precision = precision
        self.seed = 0
        self.device_type = next(model.parameters()).device.type
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=precision is torch.float16)

    def run_step(self) -> None:
        """Run iteration `self.iter`.

        Raises:
            NonFiniteLossError: the weights are then those of before the step.
        """
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        seed_everything(derive_seed("step", self.seed, self.iter, comm.get_rank()))
        with torch.autocast(self.device_type, dtype=self.precision, enabled=self.precision is not None):
            losses: dict[str, Tensor] = self.model(batch)
        self.optimizer.zero_grad()
        self.scaler.scale(torch.stack(list(losses.values())).sum()).backward()
        self._record(losses, data_time, batch)
        self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _record(self, losses: dict[str, Tensor], data_time: float, batch: list[dict[str, Any]]) -> None:
        """Put the mean losses over processes and the longest wait for data into the event storage."""
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        wait = torch.tensor(data_time, device=values.device)
        if comm.get_world_size() > 1:
            dist.all_reduce(values)
            values /= comm.get_world_size()
            dist.all_reduce(wait, op=dist.ReduceOp.MAX)
        means = dict(zip(losses, values.tolist(), strict=True))
        if not torch.isfinite(values).all():
            files = [str(entry.get("file_name", "?")) for entry in batch]
            raise NonFiniteLossError(means, [name for share in comm.all_gather(files) for name in share])
        storage = get_event_storage()
        storage.put_scalar("data_time", float(wait))
        storage.put_scalar("total_loss", sum(means.values()))
        if len(means) > 1:
            storage.put_scalars(**means)

    def close(self) -> None:
        """End the data loader's worker processes."""
        self._data_loader_iter_obj = None

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.scaler.is_enabled():
            state["grad_scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.scaler.is_enabled() and "grad_scaler" in state_dict:
            self.scaler.load_state_dict(state_dict["grad_scaler"])
