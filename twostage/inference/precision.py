"""Inference in reduced precision: layers compute in bfloat16 or float16, what decides about pixels stays in float32.

`reduced` wraps a step of a system in torch's autocast, under which convolutions and matrix products take reduced numbers;
`in_float32` is the way out for a part of it, and a wrapped step hands out float32. `store_reduced` keeps the weights of the
trunks in that precision, too, which halves what they take. Which part has which precision, and why: `docs/precision.md`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

DTYPES: Mapping[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

Step = TypeVar("Step", bound=Callable[..., Any])


def reduced(step: Step) -> Step:
    """A method of a system that runs in the system's `precision` unless it is in training; what it returns is float32."""

    @functools.wraps(step)
    def run(self: Any, *args: Any, **named: Any) -> Any:
        if self.precision is None or self.training:
            return step(self, *args, **named)
        # Weights that are stored in float32 are cast anew in each call; a cache would hold both.
        with torch.autocast(self.units.mean.device.type, dtype=self.precision, cache_enabled=False):
            return to_float32(step(self, *args, **named))

    return run  # type: ignore[return-value]


def in_float32(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which nothing is reduced; what comes from outside may be, and `.float()` is the caller's."""
    return torch.autocast(device.type, enabled=False)


def is_plain_inference(weight: Tensor) -> bool:
    """Whether a layer with this weight computes in float32 on a CPU, for nobody who wants gradients or a file of the graph.

    There a layer may be computed in another order than torch's own, where that is faster.
    """
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_exporting())
    )


def to_float32(value: Any) -> Any:
    """`value` with reduced tensors made float32, in dataclasses, tuples, lists and mappings; other things as they are."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(to_float32, value))
    if isinstance(value, list | tuple):
        return type(value)(map(to_float32, value))
    if isinstance(value, dict):
        return {key: to_float32(part) for key, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        new = {name: to_float32(part) for name, part in parts.items()}
        return value if all(new[name] is parts[name] for name in parts) else dataclasses.replace(value, **new)
    return value


def store_reduced(trunks: Iterable[nn.Module], precision: torch.dtype) -> None:
    """Make the weights of convolutions, linear and attention layers in `trunks` reduced, in place.

    Norms, embeddings and scales stay float32: they are small, and statistics and sums are made with them.
    """
    for trunk in trunks:
        for module in trunk.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.MultiheadAttention):
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)
                    parameter.data = parameter.data.to(precision)
