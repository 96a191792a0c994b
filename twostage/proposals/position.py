"""Sine position code of image grids (DETR, Carion et al., ECCV 2020, appendix A.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from twostage.inference.shape_cache import shape_cache

_TEMPERATURE = 10000.0
# Keeps the normalised positions below one.
_EPS = 1e-6


@shape_cache(maxsize=8)
def sine_position_code(grid: tuple[int, int], channels: int, device: torch.device) -> Tensor:
    """`[h * w, channels]`, row-major: sines and cosines of the row in the first half, of the column in the second.

    Positions count from 1 and are scaled to 0..2 pi; even channels are sines, odd ones cosines.
    """
    half = channels // 2
    index = torch.arange(half, device=device)
    wavelength = _TEMPERATURE ** (2 * index.div(2, rounding_mode="floor") / half)

    def axis(size: int) -> Tensor:
        position = torch.arange(1, size + 1, dtype=torch.float32, device=device) / (size + _EPS) * (2 * math.pi)
        angle = position[:, None] / wavelength
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(1)

    rows = axis(grid[0])[:, None].expand(-1, grid[1], -1)
    columns = axis(grid[1])[None].expand(grid[0], -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
