"""Exponential moving average of the trainable weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from twostage.errors import UserError


class ModelEma:
    """Average `a <- decay * a + (1 - decay) * w` of every trainable parameter of `model`; buffers are not averaged.

    A checkpointable: `state_dict` holds the averages by parameter name.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.averages: dict[str, Tensor] = {}
        self.loaded = False
        self.reset()

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def reset(self) -> None:
        """Begin anew from the model's present weights."""
        self.averages = {name: p.detach().clone() for name, p in self._parameters().items()}
        self.loaded = False

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's present weights."""
        for name, parameter in self._parameters().items():
            self.averages[name].lerp_(parameter, 1 - self.decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights."""
        parameters = self._parameters()
        own = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            self._copy(self.averages, parameters)
            yield
        finally:
            self._copy(own, parameters)

    @staticmethod
    @torch.no_grad()
    def _copy(values: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        return dict(self.averages)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over stored averages. Raises UserError where they are of other parameters."""
        if set(state) != set(self.averages):
            odd = sorted(set(state) ^ set(self.averages))
            raise UserError(
                f"the checkpoint's averaged weights (EMA) are of other parameters, e.g. '{odd[0]}'; "
                "switch off SOLVER.EMA.ENABLED or use its own config"
            )
        for name, average in self.averages.items():
            average.copy_(state[name])
        self.loaded = True


class EmaHook(HookBase):
    """Updates the average after every step."""

    def __init__(self, ema: ModelEma) -> None:
        self.ema = ema

    def after_step(self) -> None:
        self.ema.update()
