"""Masks classified by the dense features inside them: no crops, one pass of CLIP for all masks of an image.

The pooled features take the way that CLIP's globally pooled ones take (FC-CLIP, Yu et al., NeurIPS 2023, section 3.2).

Legend: B images, Q masks, C channels of the features, h x w their grid, D embedding size, H attention heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.towers import convnext
from twostage.clip.towers.resnet import is_clip_resnet
from twostage.clip.towers.vit import Tower, merge_heads, split_heads

# Keeps the mean over an empty mask at zero.
_EPS = 1e-8


def masks_on_grid(mask_logits: Tensor, grid: tuple[int, int]) -> Tensor:
    """bool `[B, Q, h, w]`: where logits `[B, Q, H, W]`, resized bilinearly, are above zero. Without gradient."""
    logits = mask_logits.detach()
    if logits.shape[-2:] != torch.Size(grid):
        logits = F.interpolate(logits, size=grid, mode="bilinear", align_corners=False)
    return logits > 0


def pool_masks(features: Tensor, masks: Tensor) -> Tensor:
    """Mean `[B, Q, C]` of `features` `[B, C, h, w]` inside bool `masks` `[B, Q, h, w]`; zero for an empty mask."""
    weights = masks.flatten(2).to(features.dtype)
    return weights @ features.flatten(2).mT / (weights.sum(dim=2, keepdim=True) + _EPS)


def embed_masks(visual: Tower, res5: Tensor, masks: Tensor) -> Tensor:
    """CLIP embeddings `[B, Q, D]` of masks, not of unit length.

    Args:
        visual: a ConvNeXt, whose norm and projection then act on the mean of each mask, or a ResNet, whose attention
            pooling then looks into each mask only.
        res5: last stage `[B, C, h, w]`.
        masks: bool `[B, Q, h, w]`.
    """
    if is_clip_resnet(visual):
        return attention_pool(visual, res5, masks)
    pooled = pool_masks(res5, masks)
    return convnext.dense_embeddings(visual, pooled.mT[..., None])[..., 0].mT


def attention_pool(visual: Tower, res5: Tensor, masks: Tensor) -> Tensor:
    """CLIP's attention pooling inside each mask: `[B, Q, D]`; a mask without a cell attends to nothing.

    The query is the mean of the whole image for all masks, so its products with the keys are taken once.
    """
    pool = visual.attnpool
    grid = (res5.shape[2], res5.shape[3])
    tokens = res5.flatten(2).mT
    positions = _pool_positions(pool.positional_embedding, grid)
    first = tokens.mean(dim=1, keepdim=True) + positions[:1]
    tokens = tokens + positions[1:]
    heads = pool.num_heads
    q, k, v = (
        split_heads(project(x), heads)
        for project, x in ((pool.q_proj, first), (pool.k_proj, tokens), (pool.v_proj, tokens))
    )
    inside = masks.flatten(2)[:, None]
    scores = (q * q.shape[-1] ** -0.5 @ k.mT).masked_fill(~inside, float("-inf"))
    # Rows without a cell are softmaxes of nothing, NaN; they take no part.
    weights = torch.where(inside, scores.softmax(dim=-1), 0)
    return pool.c_proj(merge_heads(weights @ v))


def _pool_positions(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positions `[1 + h * w, C]` for a grid `(h, w)` from `[1 + g * g, C]`: the square is resized bilinearly."""
    side = round((len(embedding) - 1) ** 0.5)
    square = embedding[1:].unflatten(0, (side, side)).permute(2, 0, 1)[None]
    resized = F.interpolate(square, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([embedding[:1], resized[0].flatten(1).T])
