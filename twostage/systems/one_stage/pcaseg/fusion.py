"""Experts that fuse what a spatial and a class branch make of the same class maps (PCA-Seg, expert-driven perceptual
learning).

Legend: V views, t classes, C channels, E experts, h x w grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Channels of the gate's hidden layer.
_GATE = 32


class Expert(nn.Module):
    """One expert behind its 1x1 convolution `first`: `[N, 2 C, h, w]` -> `[N, C, h, w]`, each channel from two."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2 * channels, 2 * channels, kernel_size=1)
        self.norm = nn.SyncBatchNorm(2 * channels)
        self.second = nn.Conv2d(2 * channels, channels, kernel_size=3, padding=1, groups=channels)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.second(F.gelu(self.norm(hidden))))


class Gate(nn.Module):
    """Shares of the experts at each pixel, behind a 1x1 convolution `first`: `[N, 32, h, w]` -> `[N, E, h, w]`."""

    def __init__(self, *, channels: int, experts: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2 * channels, _GATE, kernel_size=1)
        self.second = nn.Conv2d(_GATE, experts, kernel_size=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.second(F.relu(hidden)).softmax(dim=1)


class ExpertFusion(nn.Module):
    """A gated sum of experts, plus a scaled projection of both branches.

    All that stands before the first nonlinearity (the projections of the branches, the experts' and the gate's first 1x1
    convolutions and the residual one) is linear and reads the same, so it is one 1x1 convolution of both branches.
    """

    def __init__(self, *, channels: int, experts: int) -> None:
        super().__init__()
        self.spatial_proj = nn.Conv2d(channels, channels, kernel_size=1)
        self.class_proj = nn.Conv2d(channels, channels, kernel_size=1)
        self.experts = nn.ModuleList(Expert(channels=channels) for _ in range(experts))
        self.gate = Gate(channels=channels, experts=experts)
        self.residual = nn.Conv2d(2 * channels, channels, kernel_size=1)
        self.residual_scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, spatial: Tensor, classes: Tensor) -> Tensor:
        """Both branches `[V, t, C, h, w]` -> the same shape."""
        weight, bias = self._merged()
        joined = torch.cat([spatial.flatten(0, 1), classes.flatten(0, 1)], dim=1)
        channels = spatial.shape[2]
        *hidden, gate, residual = F.conv2d(joined, weight, bias).split(
            [2 * channels] * len(self.experts) + [_GATE, channels], dim=1
        )
        shares = self.gate(gate)
        fused = self.residual_scale * residual
        for index, expert in enumerate(self.experts):
            fused = fused + shares[:, index, None] * expert(hidden[index])
        return fused.unflatten(0, spatial.shape[:2])

    def _merged(self) -> tuple[Tensor, Tensor]:
        """Weight `[2 C E + 32 + C, 2 C, 1, 1]` and bias of the one convolution."""
        parts = [*(expert.get_submodule("first") for expert in self.experts), self.gate.first, self.residual]
        weight = torch.cat([part.get_parameter("weight") for part in parts])[..., 0, 0]
        bias = torch.cat([part.get_parameter("bias") for part in parts])
        own = (self.spatial_proj, self.class_proj)
        halves = weight.chunk(2, dim=1)
        merged = torch.cat([half @ proj.weight[..., 0, 0] for half, proj in zip(halves, own, strict=True)], dim=1)
        shift = torch.cat([proj.get_parameter("bias") for proj in own])
        return merged[..., None, None], bias + weight @ shift
