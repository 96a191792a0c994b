"""Spatial aggregation: shifted-window attention within each class map, guided by image features (CAT-Seg, section 3.3).

What the guidance adds to queries and keys is the same for every class, so it is computed once per image.

Legend: B images, t classes, C channels, G guidance channels, h x w grid, n windows, L pixels of a window, A heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.inference.rows import RowLayers

# What a pixel's logit is lowered by for pixels that share its window only because of the cyclic shift (Swin, section 3.2).
_OTHER_REGION = -100.0


class WindowAttention(nn.Module):
    """Multi-head self-attention in windows of a cyclically shifted grid, without relative position bias."""

    def __init__(self, *, channels: int, guidance_channels: int, heads: int, window: int, shift: int) -> None:
        """
        Args:
            guidance_channels: of what is appended to the input of queries and keys; 0 for no guidance.
            window: its side; the grid's sides must be multiples of it.
            shift: of the grid, upwards and to the left, in pixels.
        """
        super().__init__()
        self.heads = heads
        self.window = window
        self.shift = shift
        self.q = nn.Linear(channels + guidance_channels, channels)
        self.k = nn.Linear(channels + guidance_channels, channels)
        self.v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Attended `[B, t, h, w, C]` of normed class maps `x` of that shape.

        Args:
            guidance: normed `[B, 1, h, w, G]`.
        """
        channels = x.shape[-1]
        own = torch.cat([self.q.weight[:, :channels], self.k.weight[:, :channels], self.v.weight])
        order, back = self._pixel_orders(x.shape[2], x.shape[3], x.device)
        # Window by window from here on, so that cutting and shifting is one copy of the inputs, none of the projections.
        qkv = F.linear(x.flatten(2, 3)[:, :, order], own)
        qkv += self._class_free_term(guidance, channels, order)
        q, k, v = qkv.view(-1, self.window**2, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        mask = None
        if self.shift:
            mask = self._mask(x.shape[2], x.shape[3], x.device).repeat(x.shape[0] * x.shape[1], 1, 1)[:, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(attended.transpose(1, 2).reshape(*x.shape[:2], -1, channels))[:, :, back].view(x.shape)

    def _class_free_term(self, guidance: Tensor | None, channels: int, order: Tensor) -> Tensor:
        """What guidance and biases add to the joint projection: `[B, 1, h * w, 3C]` in `order`, or `[3C]` without guidance."""
        bias = torch.cat([self.q.bias, self.k.bias, self.v.bias])
        if guidance is None:
            return bias
        weight = torch.cat([self.q.weight[:, channels:], self.k.weight[:, channels:]])
        return F.pad(F.linear(guidance.flatten(2, 3)[:, :, order], weight), (0, channels)) + bias

    def _pixel_orders(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Places `[h * w]` of the pixels of one window of the shifted grid after the other, and of each pixel among them."""
        places = (
            torch.arange(height * width, device=device).view(height, width).roll((-self.shift, -self.shift), (0, 1))
        )
        order = self._cut(places).flatten()
        return order, order.argsort()

    def _cut(self, grid: Tensor) -> Tensor:
        """`[h, w]` -> `[n, L]`"""
        side = self.window
        cut = grid.view(grid.shape[0] // side, side, grid.shape[1] // side, side)
        return cut.transpose(1, 2).reshape(-1, side**2)

    def _mask(self, height: int, width: int, device: torch.device) -> Tensor:
        """Additive `[n, L, L]`: low between pixels that were not neighbours before the shift."""
        rows, columns = (self._regions(length, device) for length in (height, width))
        regions = self._cut(3 * rows[:, None] + columns)
        apart = regions[:, :, None] != regions[:, None]
        return _OTHER_REGION * apart

    def _regions(self, length: int, device: torch.device) -> Tensor:
        """Which of the three parts each pixel of a shifted axis belongs to: `[length]`."""
        place = torch.arange(length, device=device)
        return (place >= length - self.window).long() + (place >= length - self.shift).long()


class SpatialBlock(nn.Module):
    """A pre-norm transformer block with window attention."""

    def __init__(self, *, channels: int, guidance_channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(
            channels=channels, guidance_channels=guidance_channels, heads=heads, window=window, shift=shift
        )
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = RowLayers(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Class maps `[B, t, h, w, C]`, guidance `[B, 1, h, w, G]` (normed)."""
        x = self.attn(self.norm1(x), guidance).add_(x)
        return self.mlp(self.norm2(x)).add_(x)


class SpatialAggregation(nn.Module):
    """A block with plain windows, then one with windows shifted by half their side."""

    def __init__(self, *, channels: int, guidance_channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.guidance_norm = nn.LayerNorm(guidance_channels) if guidance_channels else None
        self.blocks = nn.ModuleList(
            SpatialBlock(
                channels=channels, guidance_channels=guidance_channels, heads=heads, window=window, shift=shift
            )
            for shift in (0, window // 2)
        )

    def norm_guidance(self, guidance: Tensor | None) -> Tensor | None:
        """`[B, G, h, w]` -> normed `[B, 1, h, w, G]`, once for all classes."""
        if guidance is None or self.guidance_norm is None:
            return None
        return self.guidance_norm(guidance.permute(0, 2, 3, 1))[:, None]

    def forward(self, x: Tensor, guidance: Tensor | None = None) -> Tensor:
        """Class maps `[B, t, C, h, w]` after both blocks, from `norm_guidance`'s result."""
        x = x.permute(0, 1, 3, 4, 2).contiguous()
        for block in self.blocks:
            x = block(x, guidance)
        return x.permute(0, 1, 4, 2, 3)
