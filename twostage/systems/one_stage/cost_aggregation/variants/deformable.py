"""Deformable spatial aggregation: every pixel of a class map gathers from nine places that it chooses itself.

DCNv3 (InternImage, Wang et al., CVPR 2023, section 3.1, equation 2) with a 3x3 kernel, in plain PyTorch: in each group of
channels, y(p) = sum over k of m_k x(p + p_k + dp_k), with p_k the 3x3 grid, offsets dp_k and weights m_k (softmax over k)
predicted from the pixel's neighbourhood, between an input and an output projection.

Legend: B images, t classes, M = B * t maps, C channels, h x w grid, A groups, K = 9 points.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_POINTS = 9


class DeformableConvolution(nn.Module):
    """The operator, on channels-last maps; starts as a mean over the 3x3 neighbourhood."""

    base: Tensor

    def __init__(self, *, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.input = nn.Linear(channels, channels)
        self.neighbourhood = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.offset = nn.Linear(channels, groups * _POINTS * 2)
        self.weight = nn.Linear(channels, groups * _POINTS)
        self.output = nn.Linear(channels, channels)
        for layer in (self.offset, self.weight):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        rows, columns = torch.meshgrid(torch.arange(3) - 1, torch.arange(3) - 1, indexing="ij")
        self.register_buffer("base", torch.stack([columns, rows], dim=-1).view(_POINTS, 2).float(), persistent=False)

    def forward(self, x: Tensor, guidance: Tensor | None = None) -> Tensor:
        """`[M, h, w, C]` -> the same shape; `guidance` of that shape helps to choose the places, but is not gathered."""
        maps, height, width, _ = x.shape
        near = self.neighbourhood(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        near = F.gelu(self.norm(near if guidance is None else near + guidance))
        shift = self.offset(near).view(maps, height, width, self.groups, _POINTS, 2) + self.base
        weight = self.weight(near).view(maps, height, width, self.groups, _POINTS).softmax(dim=-1)
        sampled = _sample(self.input(x), shift)
        gathered = (sampled * weight.permute(0, 3, 1, 2, 4)[:, :, None]).sum(dim=-1)
        return self.output(gathered.flatten(1, 2).permute(0, 2, 3, 1))


def _sample(x: Tensor, shift: Tensor) -> Tensor:
    """Values of `x` `[M, h, w, C]` at each pixel plus `shift` `[M, h, w, A, K, 2]` (x, y in pixels), bilinearly, zero
    outside: `[M, A, C / A, h, w, K]`."""
    maps, height, width, groups = shift.shape[:4]
    rows = torch.arange(height, device=x.device, dtype=x.dtype)[:, None, None, None]
    columns = torch.arange(width, device=x.device, dtype=x.dtype)[:, None, None]
    # grid_sample's coordinates: -1 and 1 are the outer edges of the border pixels.
    place_x = (2 * (columns + shift[..., 0]) + 1) / width - 1
    place_y = (2 * (rows + shift[..., 1]) + 1) / height - 1
    grid = torch.stack([place_x, place_y], dim=-1).permute(0, 3, 1, 2, 4, 5)
    grid = grid.reshape(maps * groups, height, width * _POINTS, 2)
    split = x.unflatten(3, (groups, -1)).permute(0, 3, 4, 1, 2).flatten(0, 1)
    values = F.grid_sample(split, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return values.view(maps, groups, -1, height, width, _POINTS)


class DeformableAggregation(nn.Module):
    """A pre-norm block of `DeformableConvolution` and a feed-forward network on the map of each class."""

    def __init__(self, *, channels: int, groups: int, guidance_channels: int = 0) -> None:
        """
        Args:
            guidance_channels: of image guidance, which the choice of places sees; 0 for none.
        """
        super().__init__()
        self.guide = nn.Linear(guidance_channels, channels) if guidance_channels else None
        self.norm1 = nn.LayerNorm(channels)
        self.convolution = DeformableConvolution(channels=channels, groups=groups)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def norm_guidance(self, guidance: Tensor | None) -> Tensor | None:
        """`[B, G, h, w]` -> projected `[B, 1, h, w, C]`, once for all classes."""
        if guidance is None or self.guide is None:
            return None
        return self.guide(guidance.permute(0, 2, 3, 1))[:, None]

    def forward(self, x: Tensor, guidance: Tensor | None = None) -> Tensor:
        """`[B, t, C, h, w]` -> the same shape, with `norm_guidance`'s result where there is guidance."""
        y = x.flatten(0, 1).permute(0, 2, 3, 1)
        if guidance is not None:
            guidance = guidance.expand(-1, x.shape[1], -1, -1, -1).flatten(0, 1)
        y = y + self.convolution(self.norm1(y), guidance)
        y = y + self.mlp(self.norm2(y))
        return y.permute(0, 3, 1, 2).unflatten(0, x.shape[:2])
