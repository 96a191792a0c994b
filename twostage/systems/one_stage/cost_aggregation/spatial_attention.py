"""Spatial aggregation: shifted-window attention within each class map, guided by image features (CAT-Seg, section 3.3).

What the guidance adds to queries and keys is the same for every class, so it is computed once per image.

Legend: B images, t classes, C channels, G guidance channels, h x w grid, n windows, L pixels of a window, A heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        qkv = F.linear(x, own) + self._class_free_term(guidance, channels)
        if self.shift:
            qkv = qkv.roll((-self.shift, -self.shift), dims=(2, 3))
        q, k, v = self._windows(qkv)
        mask = self._mask(x.shape[2], x.shape[3], x.device) if self.shift else None
        attended = self._merge(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), x.shape)
        if self.shift:
            attended = attended.roll((self.shift, self.shift), dims=(2, 3))
        return self.proj(attended)

    def _class_free_term(self, guidance: Tensor | None, channels: int) -> Tensor:
        """What guidance and biases add to the joint projection: `[B, 1, h, w, 3C]`, or `[3C]` without guidance."""
        bias = torch.cat([self.q.bias, self.k.bias, self.v.bias])
        if guidance is None:
            return bias
        weight = torch.cat([self.q.weight[:, channels:], self.k.weight[:, channels:]])
        return F.pad(F.linear(guidance, weight), (0, channels)) + bias

    def _windows(self, qkv: Tensor) -> Tensor:
        """`[B, t, h, w, 3C]` -> `[3, B * t, n * A, L, C / A]`"""
        batch, classes, height, width, _ = qkv.shape
        side = self.window
        cut = qkv.view(batch * classes, height // side, side, width // side, side, 3, self.heads, -1)
        return cut.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(
            3, batch * classes, height * width // side**2 * self.heads, side**2, -1
        )

    def _merge(self, windows: Tensor, shape: torch.Size) -> Tensor:
        """`[B * t, n * A, L, C / A]` -> `[B, t, h, w, C]`, the given `shape`."""
        height, width = shape[2], shape[3]
        side = self.window
        cut = windows.view(windows.shape[0], height // side, width // side, self.heads, side, side, -1)
        return cut.permute(0, 1, 4, 2, 5, 3, 6).reshape(shape)

    def _mask(self, height: int, width: int, device: torch.device) -> Tensor:
        """Additive `[1, n * A, L, L]`: low between pixels that were not neighbours before the shift."""
        rows, columns = (self._regions(length, device) for length in (height, width))
        side = self.window
        regions = (3 * rows[:, None] + columns).view(height // side, side, width // side, side)
        regions = regions.permute(0, 2, 1, 3).reshape(-1, side**2)
        apart = regions[:, :, None] != regions[:, None]
        return (_OTHER_REGION * apart).repeat_interleave(self.heads, dim=0)[None]

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
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Class maps `[B, t, h, w, C]`, guidance `[B, 1, h, w, G]` (normed)."""
        x = x + self.attn(self.norm1(x), guidance)
        return x + self.mlp(self.norm2(x))


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
