"""Swin Transformer (Liu et al., ICCV 2021) as a backbone for any image size.

Legend: B images, H x W tokens of a stage, C its width, w side of a window, n windows of an image, N = w * w tokens in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.layers import DropPath
from torch import Tensor, nn

from twostage.inference.rows import RowMlp
from twostage.inference.shape_cache import shape_cache
from twostage.recomputation import recomputable

_PATCH = 4
_MASKED = -100.0


def partition_windows(x: Tensor, window: int) -> Tensor:
    """`[B, H, W, C]`, sides multiples of `window`, to `[B, n, N, C]`, windows and tokens row-major."""
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def merge_windows(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """`[B, n, N, C]` back to `[B, H, W, C]` with `grid` `(H, W)`."""
    window = round(x.shape[2] ** 0.5)
    x = x.unflatten(1, (grid[0] // window, -1)).unflatten(3, (window, window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


# The stages of one image size; masks are large, so no more than that is kept.
@shape_cache(maxsize=8)
def shifted_window_mask(grid: tuple[int, int], window: int, shift: int, device: torch.device) -> Tensor:
    """`[n, N, N]`: 0 where two tokens of a cyclically shifted window were neighbours before the shift, -100 elsewhere."""

    def regions(size: int) -> Tensor:
        position = torch.arange(size, device=device)
        return (position >= size - window).long() + (position >= size - shift).long()

    ids = 3 * regions(grid[0])[:, None] + regions(grid[1])[None]
    ids = partition_windows(ids[None, :, :, None], window)[0, :, :, 0]
    return torch.where(ids[:, :, None] == ids[:, None], 0.0, _MASKED)


def relative_position_index(window: int) -> Tensor:
    """`[N, N]`: row of the bias table for each pair of a query and a key, from their distance in rows and columns."""
    rows, columns = (
        axis.flatten() for axis in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    )
    down = rows[:, None] - rows[None] + window - 1
    right = columns[:, None] - columns[None] + window - 1
    return down * (2 * window - 1) + right


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learnt bias for every relative position."""

    relative_position_index: Tensor

    def __init__(self, *, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Windows `[B, n, N, C]` to the same; `mask` `[n, N, N]` is added to the scores."""
        # [B, n, heads, N, C / heads] each
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        return self.proj(attend_in_windows(q, k, v, bias, mask).transpose(2, 3).flatten(3))


def attend_in_windows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Attention `[B, n, heads, N, D]` of the same in one fused step; `bias` `[heads, N, N]`, `mask` `[n, N, N]`."""
    shape = q.shape
    # Windows join the batch where they share a bias, else the heads, so that the mask is held once for all images.
    if mask is None:
        q, k, v, bias = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), bias[None]
    else:
        q, k, v = q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2)
        bias = (mask[:, None] + bias).flatten(0, 1)[None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    return out.reshape(shape)


class SwinBlock(nn.Module):
    """Window attention and MLP, both behind a layer norm and with a residual."""

    def __init__(self, *, width: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width=width, heads=heads, window=window)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(width)
        self.mlp = RowMlp(width, 4 * width)

    @recomputable
    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, C]` to the same."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        # Padding comes after the norm and takes part as keys.
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        grid = (x.shape[1], x.shape[2])
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
            mask = shifted_window_mask(grid, self.window, self.shift, x.device)
        x = merge_windows(self.attn(partition_windows(x, self.window), mask), grid)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


class PatchMerging(nn.Module):
    """Halves the grid and doubles the width: 2x2 tokens, layer norm, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, C]` to `[B, ceil(H / 2), ceil(W / 2), 2 C]`."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        quarters = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(quarters, dim=-1)))


class Stage(nn.Module):
    """Blocks, every second one with shifted windows; `downsample` leads to the next stage."""

    def __init__(self, *, width: int, heads: int, window: int, drop_paths: Sequence[float], is_last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(width=width, heads=heads, window=window, shift=(i % 2) * (window // 2), drop_path=rate)
            for i, rate in enumerate(drop_paths)
        )
        self.downsample = None if is_last else PatchMerging(width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, C]` to the same, not downsampled."""
        for block in self.blocks:
            x = block(x)
        return x


class PatchEmbed(nn.Module):
    """4x4 patches, projected and normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=_PATCH, stride=_PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` to `[B, ceil(H / 4), ceil(W / 4), C]`."""
        images = F.pad(images, (0, -images.shape[3] % _PATCH, 0, -images.shape[2] % _PATCH))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Swin(Backbone):
    """Feature maps `out_features` (res2, res3, ...: the stages' outputs, normalised) of an image of any size."""

    def __init__(
        self,
        *,
        embed_dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        drop_path_rate: float = 0.0,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
    ) -> None:
        """
        Args:
            embed_dim: width of the first stage; doubled by every further one.
            depths, heads: blocks and attention heads of each stage.
            window: side of the attention windows in tokens.
            drop_path_rate: stochastic depth of the last block.
        """
        super().__init__()
        self._out_features = list(out_features)
        names = [f"res{i + 2}" for i in range(len(depths))]
        widths = [embed_dim * 2**i for i in range(len(depths))]
        self._out_feature_channels = dict(zip(names, widths, strict=True))
        self._out_feature_strides = {name: _PATCH * 2**i for i, name in enumerate(names)}
        self.patch_embed = PatchEmbed(embed_dim)
        rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.layers = nn.ModuleList(
            Stage(width=w, heads=h, window=window, drop_paths=list(islice(rates, d)), is_last=w == widths[-1])
            for w, h, d in zip(widths, heads, depths, strict=True)
        )
        for index, name in enumerate(names):
            if name in self._out_features:
                self.add_module(f"norm{index}", nn.LayerNorm(widths[index]))
        self.apply(_init_linear)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`[B, 3, H, W]` to the wanted maps `[B, C, h, w]` by name."""
        outputs = {}
        x = self.patch_embed(images)
        for index, stage in enumerate(self.layers):
            x = stage(x)
            name = f"res{index + 2}"
            if name in self._out_features:
                outputs[name] = getattr(self, f"norm{index}")(x).permute(0, 3, 1, 2).contiguous()
            if index + 1 < len(self.layers):
                x = self.get_submodule(f"layers.{index}.downsample")(x)
        return outputs


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@BACKBONE_REGISTRY.register()
def swin(cfg: CfgNode, input_shape: ShapeSpec) -> Swin:
    """The Swin Transformer of `MODEL.SWIN`; `input_shape` is Detectron2's, always RGB here."""
    keys = cfg.MODEL.SWIN
    return Swin(
        embed_dim=keys.EMBED_DIM,
        depths=keys.DEPTHS,
        heads=keys.HEADS,
        window=keys.WINDOW_SIZE,
        drop_path_rate=keys.DROP_PATH_RATE,
        out_features=keys.OUT_FEATURES,
    )
