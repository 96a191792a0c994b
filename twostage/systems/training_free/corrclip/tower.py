"""CLIP read in three ways by one attention: its last values, the mean of its middle blocks, and one token per region.

Legend: B windows, h x w the affinities' grid, n = h * w, W CLIP's width, D embedding size, R regions of CLIP's grid.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.dense.proxy import Attention, mean_cosine, mix, patch_values
from twostage.clip.dense.tower import DenseTower
from twostage.clip.keys import PositionRule
from twostage.clip.regions.shadow_tokens import run_region_tokens
from twostage.clip.towers.vit import Tokens, Tower
from twostage.systems.training_free.corrclip.scope import merge_regions, scoped_attention


class Branches(NamedTuple):
    """`[B, n, W]` each, before CLIP's last layer norm."""

    main: Tensor
    spatial: Tensor
    semantic: Tensor


class CorrTower(DenseTower):
    """Reads dense features off CLIP's image tower within regions."""

    def __init__(
        self,
        *,
        visual: Tower,
        position_rule: PositionRule,
        spatial_blocks: tuple[int, int],
        spatial_weight: float,
        semantic_weight: float,
        factor: float,
        merge_distance: float,
        multiple: int,
    ) -> None:
        """See `keys.py`; `multiple` is the side in pixels that padded windows are a multiple of."""
        super().__init__(visual=visual, method="vanilla", position_rule=position_rule)
        self.spatial_blocks = spatial_blocks
        self.spatial_weight, self.semantic_weight = spatial_weight, semantic_weight
        self.factor = factor
        self.merge_distance = merge_distance
        self.multiple = multiple

    @property
    def window_multiple(self) -> tuple[int, int]:
        """(height, width) that padded windows are a multiple of."""
        return self.multiple, self.multiple

    def embed_regions(self, images: Tensor, unit: Tensor, grid: tuple[int, int], masks: Tensor) -> Tensor:
        """Embeddings `[B, D, h, w]`, not of unit length.

        Args:
            images: normalised `[B, 3, H, W]`.
            unit: unit features `[B, n, C]` on `grid` that affinities are made of.
            masks: label maps int64 `[B, H, W]`.
        """
        branches = self.branches(images, unit, grid, masks)
        return self.project(Tokens(self.combine(branches), grid, class_tokens=0)).patch_map

    def project(self, tokens: Tokens) -> Tokens:
        """The layer norm belongs to each branch, so that it is not run here."""
        return tokens._replace(x=tokens.x @ self.visual.proj)

    def combine(self, branches: Branches) -> Tensor:
        """The branches' weighted sum `[B, n, W]` behind the last layer norm."""
        main, spatial, semantic = (self.visual.ln_post(x) for x in branches)
        return main + self.spatial_weight * spatial + self.semantic_weight * semantic

    def branches(self, images: Tensor, unit: Tensor, grid: tuple[int, int], masks: Tensor) -> Branches:
        """The three branches; arguments as in `embed_regions`."""
        first = self.embed(images)
        blocks = self.blocks
        low, high = self.spatial_blocks
        regions = self.regions(unit, grid, masks)
        inside, shown = region_members(regions, first.grid)
        taps = {*range(low + 1, high + 2), len(blocks) - 1}
        tokens, saved = run_region_tokens(blocks, first, inside, taps)
        last = first._replace(x=saved[len(blocks) - 1])
        middle = first._replace(x=torch.stack([saved[i] for i in range(low + 1, high + 2)]).mean(dim=0))
        values = torch.cat([patch_values(blocks[-1], x, grid) for x in (last, middle)], dim=2)
        mixed = mix(unit, values, self.attention(unit, regions))
        main, spatial = (blocks[-1].attn.out_proj(part) for part in mixed.chunk(2, dim=2))
        return Branches(main, spatial, tokens.gather(1, shown[..., None].expand(-1, -1, tokens.shape[2])))

    def regions(self, unit: Tensor, grid: tuple[int, int], masks: Tensor) -> Tensor:
        """Regions of the patches `[B, h, w]` after merging, 0 for none; arguments as in `embed_regions`."""
        labels = at_grid(masks, grid)
        merged = [
            merge_regions(features, own.flatten(), distance=self.merge_distance).view(grid)
            for features, own in zip(unit, labels, strict=True)
        ]
        return torch.stack(merged)

    def attention(self, unit: Tensor, regions: Tensor) -> Attention:
        """Rows of the attention between patches of `regions` `[B, h, w]`, from rows of their cosines (see `mix`)."""
        return partial(scoped_attention, regions=regions.flatten(1), mean=mean_cosine(unit), factor=self.factor)


def at_grid(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Label maps int64 `[B, H, W]` on a grid `[B, h, w]`, nearest neighbours."""
    return F.interpolate(masks[:, None].double(), size=grid, mode="nearest")[:, 0].long()


def region_members(regions: Tensor, clip_grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which of CLIP's patches are in each region, bool `[B, R, h' * w']`, and the region of every patch `[B, n]`.

    Regions are the values that are left at CLIP's grid, ascending; windows with fewer than the most have empty ones.

    Args:
        regions: int64 `[B, h, w]` at the affinities' grid.
    """
    index = torch.stack([window.unique(return_inverse=True)[1] for window in at_grid(regions, clip_grid)])
    inside = F.one_hot(index.flatten(1)).transpose(1, 2).bool()
    return inside, at_grid(index, (regions.shape[1], regions.shape[2])).flatten(1)
