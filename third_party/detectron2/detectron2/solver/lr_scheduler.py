"""Schedules over the whole run. torch's "epoch" is an iteration here: `step` is called once per iteration."""

from __future__ import annotations

from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["LRMultiplier", "LRScheduler", "WarmupParamScheduler"]


class WarmupParamScheduler(CompositeParamScheduler):
    """A schedule with a warm-up in front."""

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        """
        Args:
            scheduler: over the whole run, from 0 to 1.
            warmup_factor: the warm-up starts at this times the schedule's start.
            warmup_length: share of the run, in [0, 1].
            warmup_method: "linear" ends where the schedule is at that time; "constant" stays at its start.
            rescale_interval: squeeze the whole schedule into the time after the warm-up.

        Raises:
            ValueError: another method.
        """
        begin = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            end = scheduler(0.0) if rescale_interval else scheduler(warmup_length)
            warmup: ParamScheduler = LinearParamScheduler(begin, end)
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(begin)
        else:
            raise ValueError(f"Unknown warmup method: {warmup_method}")
        super().__init__(
            [warmup, scheduler],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
            lengths=[warmup_length, 1 - warmup_length],
        )


class LRMultiplier(LRScheduler):
    """Multiplies every group's learning rate by a fvcore schedule of the share of the run that is over."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ) -> None:
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier must be a fvcore ParamScheduler, not {type(multiplier).__name__}")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        """Only the place: a resumed run follows the schedule of its own config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:  # type: ignore[override]
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base * factor for base in self.base_lrs]
