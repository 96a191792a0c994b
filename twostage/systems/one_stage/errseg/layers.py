"""Spatial and class aggregation of ERR-Seg (Chen et al., 2025, section 3.3): both with softmax attention on reduced grids.

What guidance adds to queries and keys of the spatial attention is the same for every class: computed once per image.

Legend: B images, t classes of a block, C channels, G guidance channels, h x w grid, h' x w' the reduced grid, A heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from twostage.systems.one_stage.cost_aggregation.class_attention import Reader
from twostage.systems.one_stage.cost_aggregation.softmax_attention import SoftmaxClassAggregation
from twostage.systems.one_stage.errseg.feed_forward import ClassFeedForward, MapFeedForward, StochasticDepth

# Side of the cells that become one key of the spatial attention, and one pixel of the class attention.
_REDUCTION = 2


class GuidanceTerms(NamedTuple):
    """What guidance and biases add to queries `[B, 1, h, w, C]` and to the reduced keys `[B, 1, C + G, h', w']`."""

    queries: Tensor
    keys: Tensor


class ReducedAttention(nn.Module):
    """Attention of every pixel of a class map to a grid of keys and values that strided convolutions reduce (Pyramid Vision
    Transformer, Wang et al., ICCV 2021, section 3.3), guided by the image.
    """

    def __init__(self, *, channels: int, guidance_channels: int, heads: int) -> None:
        super().__init__()
        joined = channels + guidance_channels
        self.channels, self.heads = channels, heads
        self.q = nn.Linear(joined, channels)
        self.reduce_k = nn.Conv2d(joined, joined, kernel_size=_REDUCTION, stride=_REDUCTION)
        self.norm_k = nn.LayerNorm(joined)
        self.k = nn.Linear(joined, channels)
        self.reduce_v = nn.Conv2d(channels, channels, kernel_size=_REDUCTION, stride=_REDUCTION)
        self.norm_v = nn.LayerNorm(channels)
        self.v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def terms(self, guidance: Tensor) -> GuidanceTerms:
        """From guidance `[B, G, h, w]`."""
        pixels = guidance.permute(0, 2, 3, 1)[:, None]
        queries = F.linear(pixels, self.q.weight[:, self.channels :], self.q.bias)
        reduce = self.reduce_k
        keys = F.conv2d(guidance, reduce.weight[:, self.channels :], reduce.bias, stride=_REDUCTION)
        return GuidanceTerms(queries, keys[:, None])

    def forward(self, x: Tensor, terms: GuidanceTerms) -> Tensor:
        """Attended `[B, t, h, w, C]` of normed class maps `x` of that shape."""
        maps = x.flatten(0, 1).permute(0, 3, 1, 2)
        own = self.reduce_k.weight[:, : self.channels]
        keys = F.conv2d(maps, own, stride=_REDUCTION).unflatten(0, x.shape[:2]) + terms.keys
        keys = self.k(self.norm_k(keys.flatten(0, 1).flatten(2).transpose(1, 2)))
        values = self.v(self.norm_v(self.reduce_v(maps).flatten(2).transpose(1, 2)))
        queries = F.linear(x, self.q.weight[:, : self.channels]) + terms.queries
        q, k, v = (self._split(part) for part in (queries.flatten(2, 3).flatten(0, 1), keys, values))
        read = F.scaled_dot_product_attention(q, k, v)
        return self.proj(read.transpose(1, 2).flatten(2)).view(x.shape)

    def _split(self, tokens: Tensor) -> Tensor:
        """`[B * t, N, C]` -> `[B * t, A, N, C / A]`"""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


class SpatialAggregation(nn.Module):
    """A pre-norm transformer block over the pixels of each class map; a `SpatialLayer` whose guidance is `GuidanceTerms`."""

    def __init__(self, *, channels: int, guidance_channels: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = ReducedAttention(channels=channels, guidance_channels=guidance_channels, heads=heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MapFeedForward(channels=channels)
        self.drop = StochasticDepth(rate=drop_path, samples=(0, 1))

    def norm_guidance(self, guidance: Tensor | None) -> GuidanceTerms:
        """Of image guidance `[B, G, h, w]`, which is not normed here."""
        assert guidance is not None, "ERR-Seg is always guided"
        return self.attention.terms(guidance)

    def forward(self, x: Tensor, guidance: GuidanceTerms) -> Tensor:
        """Class maps `[B, t, C, h, w]` -> the same shape."""
        x = x.permute(0, 1, 3, 4, 2).contiguous()
        x = x + self.drop(self.attention(self.norm1(x), guidance))
        x = x + self.drop(self.mlp(self.norm2(x)))
        return x.permute(0, 1, 4, 2, 3)


class ClassAggregation(SoftmaxClassAggregation):
    """Softmax attention among the classes of each pixel of a pooled grid, with ERR-Seg's feed-forward network."""

    def __init__(self, *, channels: int, guidance_channels: int, heads: int, drop_path: float) -> None:
        super().__init__(
            channels=channels,
            heads=heads,
            train_pooling=_REDUCTION,
            test_pooling=_REDUCTION,
            guidance_channels=guidance_channels,
            feed_forward=ClassFeedForward(channels=channels, drop_path=drop_path),
        )
        self.drop = StochasticDepth(rate=drop_path, samples=(0, 2))

    def reader(self, pooled: Iterable[Tensor], guidance: Sequence[Tensor | None], neighbours: Tensor | None) -> Reader:
        read = super().reader(pooled, guidance, neighbours)
        return lambda tokens, position: self.drop(read(tokens, position))
