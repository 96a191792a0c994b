"""SAN's side adapter network: a small ViT beside CLIP that proposes masks and attention biases (SAN, section 3.2).

Legend: B images, Q queries, W width, h x w patch grid of the side adapter, C decoder channels, N CLIP attention heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fvcore.nn.weight_init import c2_xavier_fill
from timm.models.vision_transformer import Block, init_weights_vit_timm
from torch import Tensor, nn

from twostage.clip.towers.vit import merge_heads, split_heads
from twostage.inference.attention import attend
from twostage.norms import ChannelLayerNorm
from twostage.proposals.mlp import MLP

_EPS = 1e-6


class BiasedMasks(NamedTuple):
    """Mask logits `[B, Q, h, w]` and attention biases `[B, N, Q, h, w]` of one decoded block."""

    mask_logits: Tensor
    attention_bias: Tensor


class Fusion(nn.Module):
    """Adds a CLIP patch map to the side adapter's pixel tokens: norm, 1x1 convolution, then bilinear resize."""

    def __init__(self, *, clip_width: int, width: int) -> None:
        super().__init__()
        self.norm = ChannelLayerNorm(clip_width)
        self.proj = nn.Conv2d(clip_width, width, kernel_size=1)
        c2_xavier_fill(self.proj)

    def forward(self, clip_map: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens `[B, h * w, W]` to add, from a CLIP map `[B, Wc, h', w']`."""
        x = self.proj(self.norm(clip_map))
        x = F.interpolate(x, size=grid, mode="bilinear", align_corners=False)
        return x.flatten(2).transpose(1, 2)


class MaskDecoder(nn.Module):
    """Masks and attention biases as inner products of query vectors with pixel vectors."""

    def __init__(self, *, width: int, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_mlp = MLP([width, channels, channels, channels])
        self.pix_mlp = MLP([width, channels, channels, channels], on_maps=True)
        self.attn_mlp = MLP([width, channels, channels, channels * heads], on_maps=True)
        self.bias_scaling = nn.Linear(1, 1)

    def forward(self, queries: Tensor, pixels: Tensor) -> BiasedMasks:
        """From query tokens `[B, Q, W]` and the pixel map `[B, W, h, w]`."""
        q = self.query_mlp(queries)
        masks = torch.einsum("bqc,bchw->bqhw", q, self.pix_mlp(pixels))
        # <q, W_n f + b_n> = <q W_n, f> + <q, b_n>: folding the last layer into the queries spares the map with
        # heads * channels channels.
        last: Any = self.attn_mlp.layers[-1]
        weight = last.weight.view(self.heads, -1, last.weight.shape[1])
        folded = torch.einsum("bqc,ncd->bnqd", q, weight)
        constant = torch.einsum("bqc,nc->bnq", q, last.bias.view(self.heads, -1))
        features = self.attn_mlp.hidden(pixels)
        bias = torch.einsum("bnqd,bdhw->bnqhw", folded, features) + constant[..., None, None]
        return BiasedMasks(masks, self.bias_scaling.weight * bias + self.bias_scaling.bias)


class SideBlock(Block):
    """timm's plain pre-norm block on `[B, N, W]`, with the attention of inference."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """`[B, N, W]` -> the same shape."""
        attention: Any = self.attn
        q, k, v = (split_heads(part, attention.num_heads) for part in attention.qkv(self.norm1(x)).chunk(3, dim=-1))
        x = x + attention.proj(merge_heads(attend(q, k, v)))
        return x + self.mlp(self.norm2(x))


class SideAdapter(nn.Module):
    """The side adapter: patches and queries through a plain ViT, CLIP maps added at given blocks."""

    def __init__(
        self,
        *,
        clip_width: int,
        clip_heads: int,
        width: int,
        depth: int,
        heads: int,
        patch_size: int,
        image_size: int,
        num_queries: int,
        fusion_map: Mapping[int, int],
        auxiliary_blocks: Sequence[int],
        decoder_channels: int,
    ) -> None:
        """
        Args:
            fusion_map: side block -> CLIP block whose map is added after it (0: before the first block).
            auxiliary_blocks: blocks decoded in training besides the last one.
            image_size: pixels; sets the grid of the position embedding.
        """
        super().__init__()
        self.fusion_map = dict(fusion_map)
        self.auxiliary_blocks = tuple(auxiliary_blocks)
        self.patch_embed = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, (image_size // patch_size) ** 2, width))
        self.query_embed = nn.Parameter(torch.zeros(1, num_queries, width))
        self.query_pos_embed = nn.Parameter(torch.zeros(1, num_queries, width))
        # timm calls it like a class.
        norm: Any = partial(nn.LayerNorm, eps=_EPS)
        self.blocks = nn.ModuleList([SideBlock(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)])
        self.fusions = nn.ModuleDict(
            {str(target): Fusion(clip_width=clip_width, width=width) for target in sorted(self.fusion_map)}
        )
        self.decoder = MaskDecoder(width=width, channels=decoder_channels, heads=clip_heads)
        self.blocks.apply(init_weights_vit_timm)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.query_embed, std=0.02)
        nn.init.normal_(self.query_pos_embed, std=0.02)

    def forward(self, images: Tensor, clip_maps: Mapping[int, Tensor]) -> list[BiasedMasks]:
        """Masks of the last block, in training followed by those of the auxiliary blocks.

        Args:
            images: normalised `[B, 3, H, W]`.
            clip_maps: CLIP block -> patch map `[B, Wc, h', w']`.
        """
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        queries = self.query_embed.shape[1]
        position = torch.cat([self.query_pos_embed, self._position_embedding(grid)], dim=1)
        x = torch.cat([self.query_embed.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = self._fuse(0, x + position, clip_maps, grid)
        decoded = {len(self.blocks), *(self.auxiliary_blocks if self.training else ())}
        proposals = {}
        for index, block in enumerate(self.blocks, start=1):
            x = self._fuse(index, block(x), clip_maps, grid)
            if index in decoded:
                pixels = x[:, queries:].transpose(1, 2).unflatten(2, grid)
                proposals[index] = self.decoder(x[:, :queries], pixels)
            # The positional term is added anew after every block but the last.
            x = x + position
        return [proposals[i] for i in sorted(proposals, reverse=True)]

    def _fuse(self, index: int, x: Tensor, clip_maps: Mapping[int, Tensor], grid: tuple[int, int]) -> Tensor:
        if index not in self.fusion_map:
            return x
        queries = self.query_embed.shape[1]
        added = self.fusions[str(index)](clip_maps[self.fusion_map[index]], grid)
        return torch.cat([x[:, :queries], x[:, queries:] + added], dim=1)

    def _position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """`[1, h * w, W]`; resized only where the *number* of positions differs, as the published model does."""
        if self.pos_embed.shape[1] == grid[0] * grid[1]:
            return self.pos_embed
        side = round(self.pos_embed.shape[1] ** 0.5)
        maps = self.pos_embed.transpose(1, 2).unflatten(2, (side, side))
        return F.interpolate(maps, size=grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
