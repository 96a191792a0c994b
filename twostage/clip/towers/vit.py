"""Dense features of an open_clip ViT: tokens from any image size, blocks run one by one, taps, value-path features.

Legend: B images, N = 1 + h * w tokens (class token first, patches row-major), W width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.clip.keys import PositionRule
from twostage.errors import UserError
from twostage.inference.attention import attend
from twostage.recomputation import recomputable

# open_clip's image tower and its blocks; their attributes are beyond what torch's stubs say of a module.
Tower = Any
Block = Any
# Puts other patch tokens in place of `[B, h * w, W]`: called with 0 for the patch embeddings (before class token, position
# embedding and norm) and with i after block i. Mask prompts are such a thing.
Replacement = Callable[[int, Tensor], Tensor]


class Tokens(NamedTuple):
    """Tokens `x` `[B, 1 + h * w, W]` of an image and the patch grid `(h, w)` they come from.

    Towers without a class token (SigLIP) have `class_tokens` 0 and `x` `[B, h * w, W]`.
    """

    x: Tensor
    grid: tuple[int, int]
    class_tokens: int = 1

    @property
    def class_token(self) -> Tensor:
        """`[B, 1, W]`"""
        return self.x[:, :1]

    @property
    def patch_map(self) -> Tensor:
        """`[B, W, h, w]`"""
        return self.x[:, self.class_tokens :].transpose(1, 2).unflatten(2, self.grid)


def require_vit(visual: Tower, system: str) -> None:
    """UserError unless `visual` is a ViT with a class token and blocks that can be tapped."""
    needed = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj")
    if any(not hasattr(visual, name) for name in needed) or getattr(visual, "attn_pool", None) is not None:
        raise UserError(
            f"{system} needs a CLIP with a plain ViT image tower; set MODEL.CLIP.NAME to one, e.g. 'ViT-B-16'"
        )


def image_side(visual: Tower) -> int:
    """Side in pixels of the square pictures that the tower was trained on."""
    size = visual.image_size
    return int(size[0] if isinstance(size, tuple | list) else size)


def resize_position_embedding(embedding: Tensor, grid: tuple[int, int], rule: PositionRule = "size") -> Tensor:
    """Position embedding `[1 + g * g, W]` for a patch grid `(h, w)`: `[1 + h * w, W]`; the class position is kept."""
    patches = embedding[1:]
    resized = resize_patch_positions(patches, grid, rule)
    return embedding if resized is patches else torch.cat([embedding[:1], resized])


def resize_patch_positions(patches: Tensor, grid: tuple[int, int], rule: PositionRule = "size") -> Tensor:
    """Position embedding `[g * g, W]` of a square of patches for a patch grid `(h, w)`: `[h * w, W]` (see `PositionRule`)."""
    side = round(len(patches) ** 0.5)
    by_count = rule in ("size_by_count", "scale")
    if grid == (side, side) or (by_count and grid[0] * grid[1] == len(patches)):
        return patches
    square = patches.unflatten(0, (side, side)).permute(2, 0, 1)[None]
    if rule in ("scale", "scale_by_shape"):
        factors = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
        resized = F.interpolate(square, scale_factor=factors, mode="bicubic", align_corners=False)
    else:
        mode = "bilinear" if rule == "bilinear" else "bicubic"
        resized = F.interpolate(square, size=grid, mode=mode, align_corners=False, antialias=rule == "antialias")
    return resized[0].flatten(1).T


def embed_image(
    visual: Tower, images: Tensor, replace: Replacement | None = None, *, rule: PositionRule = "size"
) -> Tokens:
    """First tokens (after `ln_pre`) of normalised images `[B, 3, H, W]`; pixels beyond whole patches are dropped.

    `rule` says how the position embedding is fitted to the patch grid.
    """
    patches = visual.conv1(images)
    grid = (patches.shape[2], patches.shape[3])
    x = patches.flatten(2).transpose(1, 2)
    if replace is not None:
        x = replace(0, x)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1)
    x = x + resize_position_embedding(visual.positional_embedding, grid, rule)
    return Tokens(visual.ln_pre(x), grid)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[B, N, W]` -> `[B, H, N, W / H]`"""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """`[B, H, N, W / H]` -> `[B, N, W]`"""
    return x.transpose(1, 2).flatten(2)


def project_qkv(attention: nn.MultiheadAttention, x: Tensor, parts: str = "qkv") -> tuple[Tensor, ...]:
    """The wanted `parts` (letters of "qkv") of the input projection of `x` `[B, N, W]`, each `[B, H, N, W / H]`."""
    if attention.in_proj_weight is None:
        # Split by `twostage.clip.towers.finetuning`.
        weights = [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
    elif parts == "qkv":
        projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
        return tuple(split_heads(p, attention.num_heads) for p in projected)
    else:
        weights = list(attention.in_proj_weight.chunk(3))
    biases = attention.in_proj_bias.chunk(3)
    which = ["qkv".index(part) for part in parts]
    return tuple(split_heads(F.linear(x, weights[i], biases[i]), attention.num_heads) for i in which)


def finish_block(block: Block, x: Tensor, attended: Tensor) -> Tensor:
    """Residuals and MLP of a pre-norm block, given the merged attention result `attended` `[B, N, W]` of `x`."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


@recomputable
def run_block(block: Block, x: Tensor) -> Tensor:
    """One residual attention block of CLIP on tokens `[B, N, W]`, with fused attention."""
    q, k, v = project_qkv(block.attn, block.ln_1(x))
    return finish_block(block, x, merge_heads(attend(q, k, v)))


def run_block_causally(block: Block, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`run_block` where a token sees those before it only, and the block's keys and values `[B, H, N, W / H]`."""
    q, k, v = project_qkv(block.attn, block.ln_1(x))
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return finish_block(block, x, merge_heads(attended)), k, v


def run_blocks(
    blocks: Iterable[Block], tokens: Tokens, taps: Collection[int] = (), replace: Replacement | None = None
) -> tuple[Tokens, dict[int, Tokens]]:
    """Run `blocks`; returns the last tokens and those at `taps` (0: before the first block, i: after block i)."""
    saved = {0: tokens} if 0 in taps else {}
    x = tokens.x
    for index, block in enumerate(blocks, start=1):
        x = run_block(block, x)
        if replace is not None:
            x = torch.cat([x[:, :1], replace(index, x[:, 1:])], dim=1)
        if index in taps:
            saved[index] = tokens._replace(x=x)
    return tokens._replace(x=x), saved


def image_embeddings(visual: Tower, images: Tensor, replace: Replacement | None = None) -> Tensor:
    """CLIP's image embeddings `[B, D]` of normalised images `[B, 3, H, W]`, not of unit length.

    Nobody reads the patches behind the last block, so there the class token alone asks and goes on.
    """
    *blocks, last = visual.transformer.resblocks
    tokens, _ = run_blocks(blocks, embed_image(visual, images, replace), replace=replace)
    normed = last.ln_1(tokens.x)
    k, v = project_qkv(last.attn, normed, "kv")
    (q,) = project_qkv(last.attn, normed[:, :1], "q")
    attended = merge_heads(attend(q, k, v))
    return project_tokens(visual, finish_block(last, tokens.class_token, attended))[:, 0]


def project_tokens(visual: Tower, x: Tensor) -> Tensor:
    """CLIP embeddings `[B, N, D]` of last-block tokens `[B, N, W]`: layer norm, then projection."""
    return visual.ln_post(x) @ visual.proj


def value_path_features(visual: Tower, images: Tensor) -> Tensor:
    """Dense CLIP features `[B, D, h, w]` of normalised images `[B, 3, H, W]`, not normalised to unit length.

    MaskCLIP (Zhou et al., ECCV 2022, section 3.2): the last block is replaced by its value and output projections, one
    patch at a time, without attention, residual or MLP.
    """
    tokens = embed_image(visual, images)
    blocks = visual.transformer.resblocks
    tokens, _ = run_blocks(blocks[:-1], tokens)
    last = blocks[-1]
    (value,) = project_qkv(last.attn, last.ln_1(tokens.x), "v")
    dense = project_tokens(visual, last.attn.out_proj(merge_heads(value)))
    return Tokens(dense, tokens.grid).patch_map
