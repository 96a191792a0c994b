"""Layers that work on every row alone, on some rows at a time, so that what they hold in between is little.

A pair of linear layers writes and reads its hidden rows, four times as long as its own; of a large map these are tens of MB.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import Mlp
from torch import Tensor, nn

# Floats held between two layers that no longer stay in a cache (16 MiB), and rows of a piece: fewer would read the weights,
# which are as large, too often.
_MANY_FLOATS = 4 * 1024 * 1024
_ROWS = 1024


def by_rows(run: Callable[[Tensor], Tensor], x: Tensor, hidden: int) -> Tensor:
    """`run(x)`, a piece of the rows after the other: on a CPU, without gradients, if there are many.

    It holds less and, unless freed memory is kept (`twostage/allocator.py`), saves the time of getting it from the system.

    Args:
        run: `[n, C]` -> `[n, D]`, each row on its own, so that pieces give the same numbers.
        x: `[..., C]`.
        hidden: floats that `run` holds per row.

    Returns:
        `[..., D]`.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_exporting():
        return run(x)
    rows = x.shape[:-1].numel()
    if rows * hidden < _MANY_FLOATS or rows < 2 * _ROWS:
        return run(x)
    return torch.cat([run(piece) for piece in x.reshape(rows, -1).split(_ROWS)]).unflatten(0, x.shape[:-1])


class RowMlp(Mlp):
    """timm's MLP of linear layers, by rows."""

    def forward(self, x: Tensor) -> Tensor:
        return by_rows(super().forward, x, hidden=len(self.fc1.weight))


class RowLayers(nn.Sequential):
    """Linear layers and activations, by rows."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = max(layer.out_features for layer in self if isinstance(layer, nn.Linear))
        return by_rows(super().forward, x, hidden)


def run_mlps_by_rows(model: nn.Module) -> None:
    """Let timm's MLPs in `model` that are made of linear layers go by rows."""
    for module in model.modules():
        if type(module) is Mlp and isinstance(module.fc1, nn.Linear):
            module.__class__ = RowMlp
