"""Thin layers over torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv2d(nn.Conv2d):
    """Convolution, then `norm`, then `activation`; the norm's parameters are named `norm.*`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """
        Args:
            args, kwargs: torch's; `bias` is not switched off by a norm.
            norm: a module, or None.
            activation: a function of a tensor, or None.
        """
        norm: nn.Module | None = kwargs.pop("norm", None)
        activation: Callable[[Tensor], Tensor] | None = kwargs.pop("activation", None)
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """`torch.cat` that gives back a single tensor without copying it."""
    assert isinstance(tensors, list | tuple), "cat takes a list or a tuple of tensors"
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def cross_entropy(input: Tensor, target: Tensor, *, reduction: str = "mean", **kwargs: Any) -> Tensor:
    """Cross entropy; its mean over no targets is 0 and connected to the graph, not NaN."""
    if target.numel() == 0 and reduction == "mean":
        return input.sum() * 0.0
    return F.cross_entropy(input, target, reduction=reduction, **kwargs)


def nonzero_tuple(x: Tensor) -> tuple[Tensor, ...]:
    """Indices of nonzero elements, one tensor per dimension."""
    return x.nonzero(as_tuple=True)


def shapes_to_tensor(x: list[int], device: torch.device | None = None) -> Tensor:
    """Sizes as an int64 tensor."""
    return torch.as_tensor(x, device=device)
