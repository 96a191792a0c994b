"""Multi-scale deformable attention in plain PyTorch (Deformable DETR, Zhu et al., ICLR 2021, section 4.1).

Legend: B images, S tokens of all levels together (each level row-major), C width, M heads, D = C / M, L levels, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.proposals.deformable_gather import sample_by_gathering

Grids = Sequence[tuple[int, int]]


class DeformableAttention(nn.Module):
    """Every token looks at P points of each level, at offsets and with weights that it predicts itself."""

    def __init__(self, *, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.shape = (heads, levels, points)
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._initialise()

    def _initialise(self) -> None:
        """Head m starts with points in direction 2 pi m / M, one, two, ... steps away, all weighted alike."""
        heads, levels, points = self.shape
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, points + 1)[:, None]
        offsets = (direction[:, None, None] * steps).expand(heads, levels, points, 2)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, position: Tensor, grids: Grids) -> Tensor:
        """Attention of tokens `x` `[B, S, C]` with codes `position` to themselves: `[B, S, C]`."""
        query = x + position
        value = self.value_proj(x).unflatten(-1, (self.shape[0], -1))
        # x and y apart, and sizes once per point: short rows of numbers are slow to walk through on a CPU.
        offsets = self.sampling_offsets(query).unflatten(-1, (-1, 2)).unbind(-1)
        sizes = self._per_point(_sizes(grids, x)).unbind(-1)
        centres = reference_points(grids, x.device).unbind(-1)
        columns, rows = (
            (c[:, None] + o / s).unflatten(-1, self.shape) for c, o, s in zip(centres, offsets, sizes, strict=True)
        )
        logits = self.attention_weights(query).unflatten(-1, self.shape)
        return self.output_proj(sample_levels(value, grids, (columns, rows), logits))

    def _per_point(self, of_levels: Tensor) -> Tensor:
        """What levels `[L, n]` have, for every head's points `[M * L * P, n]`."""
        heads, levels, points = self.shape
        return of_levels[None, :, None].expand(heads, levels, points, -1).flatten(0, 2)


def _sizes(grids: Grids, like: Tensor) -> Tensor:
    """(width, height) of every level, `[L, 2]`; made of scalars, which stay symbols where a network is traced."""
    one = like.new_ones(())
    return torch.stack([torch.stack([one * width, one * height]) for height, width in grids])


def reference_points(grids: Grids, device: torch.device) -> Tensor:
    """Centre `(x, y)` of every token in 0..1: `[S, 2]`."""
    centres = []
    for height, width in grids:
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        centres.append(torch.stack([x[None].expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1))
    return torch.cat(centres)


def sample_levels(value: Tensor, grids: Grids, locations: tuple[Tensor, Tensor], logits: Tensor) -> Tensor:
    """Weighted sum of bilinear samples, zero outside: `[B, S', C]`.

    Args:
        value: `[B, S, M, D]`.
        locations: x and y in 0..1, each `[B, S', M, L, P]`.
        logits: `[B, S', M, L, P]`, whose softmax over L and P weights the samples.
    """
    # On a CPU gathering takes a tenth of the time of grid_sample. Exported, it would be a loop over all tokens.
    gathers = value.device.type == "cpu" and not torch.compiler.is_exporting()
    sample = sample_by_gathering if gathers else sample_by_grid
    return sample(value, grids, locations, logits)


def sample_by_grid(value: Tensor, grids: Grids, locations: tuple[Tensor, Tensor], logits: Tensor) -> Tensor:
    """`sample_levels` through `grid_sample`, level by level, then one sum over all points as published."""
    batch, _, heads, _ = value.shape
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)
    # [B * M, S', L, P, ...]
    coordinates = (2 * torch.stack(locations, dim=-1) - 1).transpose(1, 2).flatten(0, 1)
    weights = logits.flatten(3).softmax(dim=-1).transpose(1, 2).flatten(0, 1)
    sizes = [height * width for height, width in grids]
    # [B * M, D, S', L * P]
    samples = torch.stack(
        [
            F.grid_sample(tokens.unflatten(2, grid), coordinates[:, :, level], mode="bilinear", align_corners=False)
            for level, (grid, tokens) in enumerate(zip(grids, maps.split(sizes, dim=2), strict=True))
        ],
        dim=-2,
    ).flatten(-2)
    out = (samples * weights[:, None]).sum(dim=-1)
    return out.unflatten(0, (batch, heads)).flatten(1, 2).transpose(1, 2).contiguous()
