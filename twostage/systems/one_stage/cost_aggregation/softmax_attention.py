"""Class aggregation by softmax attention between the classes at each pixel, among all or among given neighbours.

Multi-head attention (Vaswani et al., NeurIPS 2017, section 3.2.2) over the class axis, by itself (ERR-Seg) or masked
(`variants/nearest_attention.py`).

Legend: B images, T classes (t of a block), C channels, N pixels of the pooled grid, A heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.systems.one_stage.cost_aggregation.class_attention import ClassAggregation, Reader


class SoftmaxClassAttention(nn.Module):
    """Multi-head attention over the class axis."""

    def __init__(self, *, channels: int, heads: int, guidance_channels: int = 0) -> None:
        """
        Args:
            guidance_channels: of what is appended to the input of queries and keys.
        """
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels + guidance_channels, channels)
        self.k = nn.Linear(channels + guidance_channels, channels)
        self.v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def keys_values(self, x: Tensor, guidance: Tensor | None) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, N, A, T, C / A]` of classes `x` `[B, T, N, C]`."""
        return self._split(self.k(_join(x, guidance))), self._split(self.v(x))

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, neighbours: Tensor | None, guidance: Tensor | None
    ) -> Tensor:
        """What classes `x` `[B, t, N, C]` read: the same shape.

        Args:
            neighbours: which classes each of them reads, bool `[B or 1, t, T]`; None for all.
        """
        queries = self._split(self.q(_join(x, guidance)))
        # Pixels and heads share the mask, so they are one axis.
        flat = [part.flatten(1, 2) for part in (queries, keys, values)]
        mask = None if neighbours is None else neighbours[:, None]
        read = F.scaled_dot_product_attention(flat[0], flat[1], flat[2], attn_mask=mask)
        read = read.unflatten(1, queries.shape[1:3]).permute(0, 3, 1, 2, 4).flatten(3)
        return self.proj(read)

    def _split(self, x: Tensor) -> Tensor:
        """`[B, T, N, C]` -> `[B, N, A, T, C / A]`"""
        return x.unflatten(3, (self.heads, -1)).permute(0, 2, 3, 1, 4)


class SoftmaxClassAggregation(ClassAggregation):
    """`ClassAggregation` with `SoftmaxClassAttention`."""

    attention: SoftmaxClassAttention

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        train_pooling: int,
        test_pooling: int,
        guidance_channels: int = 0,
        feed_forward: nn.Module | None = None,
    ) -> None:
        super().__init__(
            attention=SoftmaxClassAttention(channels=channels, heads=heads, guidance_channels=guidance_channels),
            channels=channels,
            train_pooling=train_pooling,
            test_pooling=test_pooling,
            feed_forward=feed_forward,
        )

    def reader(self, pooled: Iterable[Tensor], guidance: Sequence[Tensor | None], neighbours: Tensor | None) -> Reader:
        parts = [self.attention.keys_values(self.norm1(x), g) for x, g in zip(pooled, guidance, strict=True)]
        keys, values = (torch.cat(part, dim=3) for part in zip(*parts, strict=True))
        rows: Sequence[Tensor | None] = [None] * len(parts)
        if neighbours is not None:
            batched = neighbours if neighbours.ndim == 3 else neighbours[None]
            rows = batched.split([own.shape[3] for own, _ in parts], dim=1)
        return lambda tokens, position: self.attention(
            self.norm1(tokens), keys, values, rows[position], guidance[position]
        )


def _join(x: Tensor, guidance: Tensor | None) -> Tensor:
    return x if guidance is None else torch.cat([x, guidance.expand(*x.shape[:3], -1)], dim=-1)
