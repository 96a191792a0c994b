"""Linear layers with ReLU between, the heads of mask generators."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between; on vectors `[..., C]` or, as 1x1 convolutions, on maps `[B, C, h, w]`."""

    def __init__(self, sizes: Sequence[int], *, on_maps: bool = False) -> None:
        """
        Args:
            sizes: channels of the input, of every hidden layer and of the output.
        """
        super().__init__()
        layer = partial(nn.Conv2d, kernel_size=1) if on_maps else nn.Linear
        self.layers = nn.ModuleList([layer(a, b) for a, b in pairwise(sizes)])

    def hidden(self, x: Tensor) -> Tensor:
        """What goes into the last layer."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[-1](self.hidden(x))
