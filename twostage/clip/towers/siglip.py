"""A SigLIP image tower (open_clip's timm ViT) seen as a CLIP ViT, so that dense features need one implementation.

SigLIP (Zhai et al., ICCV 2023) has no class token: a learnt query attends to the patches and an MLP follows. The dense
feature of a patch is what that pooling gives when the patch is all there is to attend to, as MaskCLIP does it with the
attention pooling of CLIP's ResNet (Zhou et al., ECCV 2022, section 3.2): p = W_o W_v x, p + MLP(norm(p)).

Legend: B images, N patches, W width.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from twostage.clip.keys import PositionRule
from twostage.clip.towers.vit import Block, Tokens, Tower, resize_patch_positions


def is_siglip(visual: Tower) -> bool:
    """Whether `visual` is a timm ViT without class token and with attention pooling."""
    trunk = getattr(visual, "trunk", None)
    needed = ("patch_embed", "pos_embed", "norm_pre", "blocks", "norm", "attn_pool")
    if trunk is None or any(getattr(trunk, name, None) is None for name in needed):
        return False
    return getattr(trunk, "cls_token", None) is None and not getattr(trunk, "num_reg_tokens", 0)


def siglip_blocks(visual: Tower) -> list[Block]:
    """The tower's blocks under the names of CLIP's, sharing their parameters."""
    return [_as_clip_block(block) for block in visual.trunk.blocks]


def _as_clip_block(block: Any) -> Block:
    attention = block.attn
    return SimpleNamespace(
        ln_1=block.norm1,
        ln_2=block.norm2,
        ls_1=block.ls1,
        ls_2=block.ls2,
        mlp=block.mlp,
        attn=SimpleNamespace(
            in_proj_weight=attention.qkv.weight,
            in_proj_bias=attention.qkv.bias,
            num_heads=attention.num_heads,
            out_proj=attention.proj,
        ),
    )


def embed_siglip_image(visual: Tower, images: Tensor, *, rule: PositionRule = "size") -> Tokens:
    """First tokens of normalised images `[B, 3, H, W]`; pixels beyond whole patches are dropped."""
    trunk = visual.trunk
    patches = trunk.patch_embed.proj(images)
    grid = (patches.shape[2], patches.shape[3])
    x = patches.flatten(2).transpose(1, 2) + resize_patch_positions(trunk.pos_embed[0], grid, rule)
    return Tokens(trunk.norm_pre(x), grid, class_tokens=0)


def project_siglip_tokens(visual: Tower, x: Tensor) -> Tensor:
    """Embeddings `[B, N, D]` of last-block tokens `[B, N, W]`, each pooled on its own."""
    pool = visual.trunk.attn_pool
    width = x.shape[-1]
    # Keys first, values last.
    bias = None if pool.kv.bias is None else pool.kv.bias[width:]
    pooled = pool.proj(F.linear(visual.trunk.norm(x), pool.kv.weight[width:], bias))
    pooled = pooled + pool.mlp(pool.norm(pooled))
    return visual.head(visual.trunk.head(visual.trunk.fc_norm(pooled)))
