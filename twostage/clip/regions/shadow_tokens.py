"""Mask recognition by CLIP's blocks with one shadow [CLS] token per mask (SAN, section 3.2, figure 4; ODISE, section 3.5).

A shadow token starts as a copy of the class token. In SAN it attends to the patches under its mask's attention bias and to
itself, in ODISE to the patches inside its mask and to the class token. Patches and class token never see shadow tokens, so
they evolve as in plain CLIP and are computed once for any number of masks; the published form, one sequence under a dense
mask, gives the same values.

Legend: B images, S shadow tokens, h x w CLIP's patch grid, H heads, W width, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.towers.vit import Block, Tokens, Tower, finish_block, merge_heads, project_qkv, project_tokens

# From a token's own query, key and value `[B, H, S or 1, W / H]` and those of class token and patches, keys and values
# `[B, H, 1 + N, W / H]`, to the attention's result `[B, H, S, W / H]`.
Attend = Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]


def recognise_masks(visual: Tower, blocks: Sequence[Block], tokens: Tokens, attention_bias: Tensor) -> Tensor:
    """Unit CLIP embeddings `[B, S, D]` of masks.

    Args:
        visual: CLIP's image tower.
        blocks: its last blocks.
        tokens: what goes into them.
        attention_bias: `[B, H, S, h', w']` on the side adapter's grid; reduced to CLIP's by adaptive max pooling.
    """
    bias = pool_bias(attention_bias, tokens.grid)

    def attend(own: Sequence[Tensor], k: Tensor, v: Tensor) -> Tensor:
        return _attend(own[0], own[1], own[2], k[:, :, 1:], v[:, :, 1:], bias)

    shadow, _ = _run_shadows(blocks, tokens, attend, "qkv")
    return F.normalize(project_tokens(visual, shadow), dim=-1)


def read_masks(visual: Tower, blocks: Sequence[Block], tokens: Tokens, inside: Tensor) -> Tensor:
    """CLIP embeddings `[B, S, D]` of masks, not of unit length, by the rule of MaskCLIP (Ding et al., ICML 2023) and ODISE:
    a shadow token attends to the class token and to the patches of its mask, not to itself.

    Args:
        visual: CLIP's image tower.
        blocks: its last blocks; all of them as published.
        tokens: what goes into them.
        inside: which patches belong to each mask, bool `[B, S, h * w]`; a mask without any sees the class token only.
    """
    return project_tokens(visual, run_region_tokens(blocks, tokens, inside)[0])


def run_region_tokens(
    blocks: Sequence[Block], tokens: Tokens, inside: Tensor, taps: Collection[int] = ()
) -> tuple[Tensor, dict[int, Tensor]]:
    """Shadow tokens `[B, S, W]` behind the last of `blocks` by the rule of `read_masks`, and the others at `taps`.

    Args:
        tokens, inside: see `read_masks`.
        taps: i: class token and patches `[B, 1 + N, W]` after block i, for all but the last block.
    """
    allowed = F.pad(inside, (1, 0), value=True)[:, None]

    def attend(own: Sequence[Tensor], k: Tensor, v: Tensor) -> Tensor:
        (q,) = own
        return F.scaled_dot_product_attention(q.expand(-1, -1, inside.shape[1], -1), k, v, attn_mask=allowed)

    return _run_shadows(blocks, tokens, attend, "q", taps)


def _run_shadows(
    blocks: Sequence[Block], tokens: Tokens, attend: Attend, parts: str, taps: Collection[int] = ()
) -> tuple[Tensor, dict[int, Tensor]]:
    """Shadow tokens `[B, S, W]` behind the last block, and the others after the blocks of `taps`.

    Args:
        parts: what `attend` needs of a token's own query, key and value (letters of "qkv").
    """
    x = tokens.x
    saved = {}
    # All shadow tokens of an image are equal before the first block: one row serves until they differ.
    shadow = tokens.class_token
    for index, block in enumerate(blocks):
        own = project_qkv(block.attn, block.ln_1(shadow), parts)
        is_last = index == len(blocks) - 1
        # Nobody reads the patches behind the last block, so they need no queries there.
        projected = project_qkv(block.attn, block.ln_1(x), "kv" if is_last else "qkv")
        k, v = projected[-2:]
        shadow = finish_block(block, shadow, merge_heads(attend(own, k, v)))
        if not is_last:
            x = finish_block(block, x, merge_heads(F.scaled_dot_product_attention(projected[0], k, v)))
            if index + 1 in taps:
                saved[index + 1] = x
    return shadow, saved


def pool_bias(attention_bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """`[B, H, S, h', w']` -> `[B, H, S, h * w]` by adaptive max pooling."""
    pooled = F.adaptive_max_pool2d(attention_bias.flatten(0, 1), grid)
    return pooled.unflatten(0, attention_bias.shape[:2]).flatten(3)


def _attend(own_q: Tensor, own_k: Tensor, own_v: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of shadow tokens to patches (under `bias` `[B, H, S, N]`) and each to itself: `[B, H, S, W / H]`.

    `own_*` are `[B, H, S or 1, W / H]`, `k` and `v` `[B, H, N, W / H]`.
    """
    own_q = own_q * own_q.shape[-1] ** -0.5
    to_patches = own_q @ k.transpose(-1, -2) + bias
    to_self = (own_q * own_k).sum(dim=-1, keepdim=True).expand(*to_patches.shape[:-1], 1)
    weights = torch.cat([to_patches, to_self], dim=-1).softmax(dim=-1)
    return weights[..., :-1] @ v + weights[..., -1:] * own_v
