"""Gated feed-forward networks of ERR-Seg's layers, and stochastic depth of their residual branches.

Legend: B images, t classes, C channels, h x w grid, N pixels of the pooled grid.
"""

from __future__ import annotations

from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor, nn

# Hidden channels for each channel.
_EXPANSION = 3


class StochasticDepth(nn.Module):
    """Leaves a residual branch out, in training, for a share of the samples; the others make up for it (Huang et al., ECCV
    2016).
    """

    def __init__(self, *, rate: float, samples: Collection[int]) -> None:
        """
        Args:
            rate: share of samples without the branch, below 1.
            samples: axes along which samples lie; the others share their sample's fate.
        """
        super().__init__()
        self.rate = rate
        self.samples = samples

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        shape = [length if axis in self.samples else 1 for axis, length in enumerate(x.shape)]
        return x * x.new_empty(shape).bernoulli_(1 - self.rate).div_(1 - self.rate)


class GatedFeedForward(nn.Module):
    """One linear map of the input, capped at 0 and 6, times another one, projected back: `[..., C]` -> the same shape."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, _EXPANSION * channels)
        self.fc2 = nn.Linear(channels, _EXPANSION * channels)
        self.fc3 = nn.Linear(_EXPANSION * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu6(self.fc1(x)) * self.fc2(x))


class MapFeedForward(GatedFeedForward):
    """The same on class maps `[B, t, h, w, C]`, with a depthwise convolution behind it."""

    def __init__(self, *, channels: int) -> None:
        super().__init__(channels=channels)
        self.depthwise = nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        maps = super().forward(x).flatten(0, 1).permute(0, 3, 1, 2)
        return self.depthwise(maps).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class ClassFeedForward(GatedFeedForward):
    """The same on tokens `[B, t, N, C]`, capped once more at its end, with stochastic depth for each image and pixel."""

    def __init__(self, *, channels: int, drop_path: float) -> None:
        super().__init__(channels=channels)
        self.drop = StochasticDepth(rate=drop_path, samples=(0, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(F.relu6(super().forward(x)))
