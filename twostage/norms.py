"""Layer norms whose weights decay like any others, as in recipes that tell norms by torch's own class.

They are no `nn.LayerNorm`, see `twostage.engine.optimizer.NORM_LAYERS`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EPS = 1e-6


class DecayedLayerNorm(nn.Module):
    """Layer norm over the last axis."""

    def __init__(self, channels: int, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, _EPS)


class ChannelLayerNorm(DecayedLayerNorm):
    """Layer norm over the channels of `[B, C, h, w]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
