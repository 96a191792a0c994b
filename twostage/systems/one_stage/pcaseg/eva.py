"""Dense features of an EVA02-CLIP image tower (timm's, under open_clip), its last block read as DeCLIP has it.

Legend: V images, N = 1 + h * w tokens (class token first), W width, A heads, D embedding size.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.eva import Eva
from torch import Tensor

from twostage.clip.towers.vit import Tokens, merge_heads, resize_position_embedding, split_heads
from twostage.systems.one_stage.catseg.building import TowerShape

# Of the rotary position code (EVA-02, Fang et al., 2023).
_TEMPERATURE = 10000.0
_REFERENCE_SIDE = 16


def is_eva(visual: Any) -> bool:
    """Whether open_clip's image tower `visual` is an EVA02 of timm."""
    return isinstance(getattr(visual, "trunk", None), Eva)


def eva_shape(visual: Any) -> TowerShape:
    """Of such a tower."""
    trunk = visual.trunk
    embedding, width = trunk.head.weight.shape
    return TowerShape(trunk.patch_embed.patch_size[0], width, embedding, len(trunk.blocks))


def dense_features(visual: Any, images: Tensor, taps: Collection[int]) -> tuple[Tokens, dict[int, Tokens]]:
    """Unit CLIP embeddings `[V, N, D]` of all tokens, and the outputs of blocks `taps`, of `[V, 3, side, side]`.

    Args:
        taps: i is the output of the i-th block.
    """
    trunk = visual.trunk
    patches = trunk.patch_embed.proj(images)
    grid = (patches.shape[2], patches.shape[3])
    x = torch.cat([trunk.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    x = x + resize_position_embedding(trunk.pos_embed[0], grid)
    rotation = rotary_code(grid, trunk.blocks[0].attn.head_dim).to(x)
    *blocks, last = trunk.blocks
    tapped = {}
    for number, block in enumerate(blocks, start=1):
        x = block(x, rope=rotation)
        if number in taps:
            tapped[number] = Tokens(x, grid)
    embeddings = trunk.head(trunk.norm(self_correlation(last, x)))
    return Tokens(F.normalize(embeddings, dim=-1), grid), tapped


def rotary_code(grid: tuple[int, int], head_width: int) -> Tensor:
    """Sines and cosines `[h * w, 2 * head_width]` of EVA02's rotary position code, as timm's blocks take them.

    timm's own table is of the grid that a model was made for. Positions run from 0 to 16 along each axis, whatever the grid.
    """
    count = head_width // 4
    bands = _TEMPERATURE ** (-torch.arange(count) / count)
    rows, columns = (torch.arange(side)[:, None] / side * _REFERENCE_SIDE * bands for side in grid)
    angles = torch.cat([rows[:, None].expand(-1, grid[1], -1), columns.expand(grid[0], -1, -1)], dim=-1)
    angles = angles.repeat_interleave(2, dim=-1).flatten(0, 1)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def self_correlation(block: Any, x: Tensor) -> Tensor:
    """What `block` makes of tokens `[V, N, W]` when queries read queries and keys read keys (SCLIP's correlative attention),
    without rotation, scale, residual paths and feed-forward network.
    """
    attention = block.attn
    normed = block.norm1(x)
    q, k, v = (
        split_heads(projection(normed), attention.num_heads)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = (q @ q.transpose(-2, -1)).softmax(dim=-1) + (k @ k.transpose(-2, -1)).softmax(dim=-1)
    return attention.proj(attention.norm(merge_heads(weights @ v)))
