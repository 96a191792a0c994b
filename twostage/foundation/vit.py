"""DINO's and DINOv2's image towers: timm's blocks under the authors' names, position tables fitted the authors' way.

timm fits DINO's table by another rule (antialiased, to the grid's size), which gives other numbers at all sizes but the one
it was trained at; and it keeps DINOv2's class entry merged into the class token.

Legend: B images, h x w patches, W width, R registers, N = 1 + R + h * w tokens.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from twostage.clip.keys import PositionRule
from twostage.clip.towers.vit import resize_position_embedding
from twostage.foundation.keys import FoundationName


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitShape:
    """What tells one tower from another.

    Attributes:
        patch: side of a patch in pixels.
        table: side of the position table in patches.
        layer_scale: learned factors behind attention and MLP.
        rule: how the position table is fitted, see `PositionRule`.
        timm: the tower's name in timm's hub; "" where it is not there.
    """

    patch: int
    table: int
    width: int
    depth: int
    heads: int
    rule: PositionRule
    timm: str
    registers: int = 0
    layer_scale: bool = False


_DINO = partial(VitShape, depth=12, rule="scale_by_shape")
_DINOV2 = partial(VitShape, patch=14, table=37, layer_scale=True)

SHAPES: dict[FoundationName, VitShape] = {
    "dino_vits8": _DINO(patch=8, table=28, width=384, heads=6, timm="vit_small_patch8_224.dino"),
    "dino_vits16": _DINO(patch=16, table=14, width=384, heads=6, timm="vit_small_patch16_224.dino"),
    "dino_vitb8": _DINO(patch=8, table=28, width=768, heads=12, timm="vit_base_patch8_224.dino"),
    "dino_vitb16": _DINO(patch=16, table=14, width=768, heads=12, timm="vit_base_patch16_224.dino"),
    "dinov2_vitb14": _DINOV2(
        width=768, depth=12, heads=12, rule="scale_by_shape", timm="vit_base_patch14_dinov2.lvd142m"
    ),
    # The towers with registers fit their table otherwise than those without.
    "dinov2_vitb14_reg": _DINOV2(
        width=768, depth=12, heads=12, registers=4, rule="antialias", timm="vit_base_patch14_reg4_dinov2.lvd142m"
    ),
    "dinov2_vitl14_reg": _DINOV2(
        width=1024, depth=24, heads=16, registers=4, rule="antialias", timm="vit_large_patch14_reg4_dinov2.lvd142m"
    ),
    "toybox_vits8": VitShape(patch=8, table=12, width=96, depth=4, heads=3, rule="scale_by_shape", timm=""),
}


class PatchEmbedding(nn.Module):
    """Non-overlapping patches to tokens; pixels beyond whole patches are dropped."""

    def __init__(self, *, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` to `[B, W, h, w]`."""
        return self.proj(images)


class FoundationVit(nn.Module):
    """A frozen self-supervised tower; parameters have the authors' names."""

    def __init__(self, *, shape: VitShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.table**2, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, shape.registers, width)) if shape.registers else None
        self.patch_embed = PatchEmbedding(patch=shape.patch, width=width)
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        scale = 1.0 if shape.layer_scale else None
        self.blocks = nn.ModuleList(
            Block(width, shape.heads, qkv_bias=True, init_values=scale, norm_layer=norm) for _ in range(shape.depth)
        )
        self.norm = norm(width)

    @property
    def prefix_tokens(self) -> int:
        """Class token and registers, which stand in front of the patches."""
        return 1 + self.shape.registers

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """First tokens `[B, N, W]` of images `[B, 3, H, W]` in the tower's units, and the grid (h, w)."""
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = x + resize_position_embedding(self.pos_embed[0], grid, self.shape.rule)
        if self.register_tokens is not None:
            # Registers have no position.
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        return x, grid

    def last_input(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens `[B, N, W]` in front of the last block, and the grid."""
        x, grid = self.embed(images)
        for block in self.blocks[:-1]:
            x = block(x)
        return x, grid

    def forward(self, images: Tensor) -> Tensor:
        """Normed patches behind the last block, `[B, W, h, w]`."""
        x, grid = self.last_input(images)
        return self.patch_map(self.norm(self.blocks[-1](x)), grid)

    def last_qkv(self, x: Tensor) -> Tensor:
        """Queries, keys and values `[B, N, 3 W]` of the last block, heads side by side, of the tokens in front of it."""
        block: Any = self.blocks[-1]
        return block.attn.qkv(block.norm1(x))

    def patch_map(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches of tokens `[B, N, C]` as a map `[B, C, h, w]`."""
        return x[:, self.prefix_tokens :].transpose(1, 2).unflatten(2, grid)
