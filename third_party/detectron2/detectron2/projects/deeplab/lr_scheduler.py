"""The polynomial schedule of semantic segmentation."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["WarmupPolyLR"]


class WarmupPolyLR(LRScheduler):
    """`base * warm-up(i) * (1 - i / max_iters)^power`: the decay begins with the warm-up, which multiplies it.

    Its whole state is saved: a resumed run keeps the stored `max_iters` and `power`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_iters: int,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
        power: float = 0.9,
        constant_ending: float = 0.0,
    ) -> None:
        """
        Args:
            warmup_factor: where the warm-up starts; "linear" reaches 1 after `warmup_iters`, "constant" jumps to it.
            constant_ending: after the warm-up, the rate does not fall below this times the base rate.

        Raises:
            ValueError: another warm-up method.
        """
        if warmup_method not in ("linear", "constant"):
            raise ValueError(f"Unknown warmup method: {warmup_method}")
        self.max_iters = max_iters
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        self.power = power
        self.constant_ending = constant_ending
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        warmup = self._warmup()
        decay = (1.0 - self.last_epoch / self.max_iters) ** self.power
        if warmup == 1.0 and decay < self.constant_ending:
            decay = self.constant_ending
        return [base * warmup * decay for base in self.base_lrs]

    def _warmup(self) -> float:
        if self.last_epoch >= self.warmup_iters:
            return 1.0
        if self.warmup_method == "constant":
            return self.warmup_factor
        progress = self.last_epoch / self.warmup_iters
        return self.warmup_factor * (1 - progress) + progress
