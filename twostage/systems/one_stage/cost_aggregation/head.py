"""The head of cost aggregation: a 3x3 convolution from a class map to its logits.

Legend: N class maps, C channels, h x w grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.inference.precision import is_plain_inference


class LogitHead(nn.Conv2d):
    """`[N, C, h, w]` -> `[N, 1, h, w]`.

    Convolutions are made for many channels out; one costs as much as sixteen. In inference on a CPU each pixel is
    therefore multiplied with the nine taps once, and what comes out is moved to where the taps stand.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, kernel_size=3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        if not is_plain_inference(self.weight):
            return super().forward(maps)
        assert self.bias is not None
        products = self.weight[0].flatten(1).T @ maps.permute(0, 2, 3, 1).flatten(0, 2).T
        return (add_shifted(products.view(9, len(maps), *maps.shape[2:])) + self.bias)[:, None]


def add_shifted(taps: Tensor) -> Tensor:
    """`[N, h, w]`: the sum of the nine maps `[9, N, h, w]`, each moved to where a 3x3 convolution with zero padding reads it.

    Tap (dy, dx) of the kernel, row by row, looks at (y + dy - 1, x + dx - 1).
    """
    height, width = taps.shape[-2:]
    padded = F.pad(taps, (1, 1, 1, 1))
    total = taps[4].clone(memory_format=torch.contiguous_format)
    for tap in (0, 1, 2, 3, 5, 6, 7, 8):
        dy, dx = divmod(tap, 3)
        total += padded[tap, :, dy : dy + height, dx : dx + width]
    return total
