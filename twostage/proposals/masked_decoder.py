"""Mask2Former's transformer decoder with masked attention (Mask2Former, Cheng et al., CVPR 2022, section 3.2).

Legend: B images, Q queries, C width, Cm mask width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.proposals.mlp import MLP
from twostage.proposals.pixel_decoder import LEVELS, PixelFeatures
from twostage.proposals.position import sine_position_code
from twostage.proposals.queries import MaskedQueries
from twostage.proposals.transformer import DecoderLayer


class MaskedDecoder(nn.Module):
    """Queries that look at one level at a time, only inside the mask they predicted one layer before."""

    def __init__(self, *, num_queries: int, width: int, mask_width: int, heads: int, layers: int, hidden: int) -> None:
        super().__init__()
        self.query_feat = nn.Embedding(num_queries, width)
        self.query_embed = nn.Embedding(num_queries, width)
        self.level_embed = nn.Embedding(len(LEVELS), width)
        self.layers = nn.ModuleList(
            DecoderLayer(width=width, heads=heads, hidden=hidden, cross_attention_first=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.mask_embed = MLP([width, width, width, mask_width])

    def forward(self, pixels: PixelFeatures) -> list[MaskedQueries]:
        """The last layer's output; in training followed by those before any layer, after the first, the second, ..."""
        batch = len(pixels.mask_features)
        memory = [
            level.flatten(2).transpose(1, 2) + code
            for level, code in zip(pixels.levels, self.level_embed.weight, strict=True)
        ]
        grids = [(level.shape[2], level.shape[3]) for level in pixels.levels]
        positions = [sine_position_code(grid, m.shape[2], m.device) for grid, m in zip(grids, memory, strict=True)]
        # A mask is a product with the mask features, so masks on a coarse grid are products with resized features.
        features = [features_on_grid(pixels.mask_features, grid) for grid in grids]
        x = self.query_feat.weight.expand(batch, -1, -1)
        position = self.query_embed.weight.expand(batch, -1, -1)
        outputs = []
        for index, layer in enumerate(self.layers):
            level = index % len(LEVELS)
            queries = self.norm(x)
            if self.training:
                outputs.append(self.with_masks(queries, pixels.mask_features))
            allowed = self.attention_mask(queries, features[level])
            x = layer(x, position, memory[level], positions[level], allowed)
        return [self.with_masks(self.norm(x), pixels.mask_features), *outputs]

    @torch.no_grad()
    def attention_mask(self, queries: Tensor, features: Tensor) -> Tensor:
        """Where each query may look, bool `[B, Q, h * w]`: inside its mask, or everywhere where that is empty.

        Args:
            features: mask features on the level's grid, `[B, Cm, h, w]`.
        """
        allowed = self.with_masks(queries, features).mask_logits.flatten(2).sigmoid() >= 0.5
        return allowed | ~allowed.any(dim=-1, keepdim=True)

    def with_masks(self, queries: Tensor, mask_features: Tensor) -> MaskedQueries:
        """Normalised queries `[B, Q, C]` with their masks on the grid of `mask_features`."""
        masks = self.mask_embed(queries) @ mask_features.flatten(2)
        return MaskedQueries(queries, masks.unflatten(2, mask_features.shape[-2:]))


def features_on_grid(features: Tensor, grid: Sequence[int]) -> Tensor:
    """Mask features `[B, Cm, H, W]` on a coarser grid, without gradient."""
    return F.interpolate(features.detach(), size=tuple(grid), mode="bilinear", align_corners=False)
