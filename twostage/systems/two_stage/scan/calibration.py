"""SCAN's semantic calibration: queries learn from CLIP what the whole picture is about (SCAN, Liu et al., CVPR 2024,
section 3.2).

Legend: B images, Q queries, T tapped blocks, g side of CLIP's patch grid, N = g * g, Cv CLIP's width, D embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.proposals.transformer import attend


class Context(NamedTuple):
    """What CLIP sees in a whole picture: `memory` `[B, T * N, D]` and its unit `class_embedding` `[B, D]`."""

    memory: Tensor
    class_embedding: Tensor


class FrequencyFilter(nn.Module):
    """Adds to a map what two 1x1 convolutions make of its damped spectrum; real and imaginary parts are channels.

    The published code damps the middle of the spectrum as it comes, not shifted, so these are the high frequencies.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * channels, 2 * channels, kernel_size=1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, kernel_size=1)

    def forward(self, maps: Tensor, sigma: float) -> Tensor:
        """`[B, Cv, g, g]` to the same; `sigma` in grid steps is the width of what is damped."""
        with torch.autocast(maps.device.type, enabled=False):
            maps = maps.float()
            spectrum = torch.fft.fft2(maps) * (1 - _gaussian(maps.shape[-1], sigma, maps.device))
            x = torch.cat([spectrum.real, spectrum.imag], dim=1)
            real, imaginary = self.conv2(F.relu(self.conv1(x))).chunk(2, dim=1)
            return maps + torch.fft.ifft2(torch.complex(real, imaginary)).real


def _gaussian(side: int, sigma: float, device: torch.device) -> Tensor:
    """`[side, side]`, one at the place `side // 2` of both axes."""
    distance = (torch.arange(side, device=device) - side // 2).float().square()
    return torch.exp(-(distance[:, None] + distance[None]) / (2 * sigma**2))


class QueryFusion(nn.Module):
    """Queries attend to the context, layer by layer; a layer norm between the layers, none behind the last."""

    def __init__(self, *, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers - 1))

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """`[B, Q, D]` to the same."""
        norms = [*self.norms, nn.Identity()]
        for attention, norm in zip(self.attentions, norms, strict=True):
            assert isinstance(attention, nn.MultiheadAttention)
            queries = norm(queries + attend(attention, queries, memory, memory))
        return queries


class Calibration(nn.Module):
    """Frequency filter, projection to CLIP's embedding space, fusion with queries, and a last refinement of each query."""

    def __init__(
        self,
        *,
        clip_width: int,
        width: int,
        heads: int,
        sigmas: Sequence[float],
        fusion_layers: int,
        refine_layers: int,
        refine_hidden: int,
        dropout: float,
    ) -> None:
        """
        Args:
            clip_width, width: Cv and D.
            sigmas: of the frequency filter, one per tapped block.
            dropout: of the refinement, in training.
        """
        super().__init__()
        self.sigmas = tuple(sigmas)
        self.frequency_filter = FrequencyFilter(clip_width)
        # Two layers without anything between them, as published.
        self.projection = nn.Sequential(nn.Linear(clip_width, width), nn.Linear(width, width))
        self.fusion = QueryFusion(width=width, heads=heads, layers=fusion_layers)
        self.class_weight = nn.Parameter(torch.full((1,), 0.1))
        self.refinement = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, refine_hidden, dropout, batch_first=True)
            for _ in range(refine_layers)
        )

    def context(self, maps: Sequence[Tensor], class_embedding: Tensor) -> Context:
        """From CLIP's patch maps `[B, Cv, g, g]` of the tapped blocks and its embedding `[B, D]` of the picture."""
        tokens = [
            self.frequency_filter(m, sigma).flatten(2).transpose(1, 2)
            for m, sigma in zip(maps, self.sigmas, strict=True)
        ]
        return Context(self.projection(torch.cat(tokens, dim=1)), F.normalize(class_embedding, dim=-1))

    def forward(self, queries: Tensor, context: Context) -> Tensor:
        """Calibrated queries `[B, Q, D]`; every one stays on its own, so that any number can go through together."""
        x = self.fusion(queries, context.memory) + self.class_weight * context.class_embedding[:, None]
        # Each query is a sequence of one token.
        tokens = x.flatten(0, 1)[:, None]
        for layer in self.refinement:
            tokens = layer(tokens)
        return tokens[:, 0].unflatten(0, x.shape[:2])
