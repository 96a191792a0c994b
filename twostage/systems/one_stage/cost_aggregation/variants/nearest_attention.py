"""Class aggregation among look-alike names: softmax attention in which a class sees only the classes nearest to it in text.

Multi-head attention (Vaswani et al., NeurIPS 2017, section 3.2.2) over the class axis of each pixel, masked to the K
nearest classes by cosine similarity of their text embeddings. Linear attention (`../class_attention.py`) mixes all classes,
which blurs what tells near names apart where the vocabulary is large.

Legend: B images, T classes (t of a block), C channels, N pixels of the pooled grid, A heads, D embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.systems.one_stage.cost_aggregation.class_attention import ClassAggregation


def nearest_classes(text: Tensor, count: int) -> Tensor:
    """Which classes each class reads, bool `[..., T, T]`: itself and the `count - 1` most similar ones.

    Args:
        text: text embeddings `[..., T, D]` of any length.
    """
    unit = F.normalize(text, dim=-1)
    similarity = unit @ unit.transpose(-1, -2)
    # A class stays its own neighbour also where another one has the same embedding.
    similarity.diagonal(dim1=-2, dim2=-1).fill_(float("inf"))
    chosen = similarity.topk(min(count, text.shape[-2]), dim=-1).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(-1, chosen, True)


class NearestClassAttention(nn.Module):
    """Masked multi-head attention over the class axis."""

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

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, neighbours: Tensor, guidance: Tensor | None) -> Tensor:
        """What classes `x` `[B, t, N, C]` read from their `neighbours` (bool `[B or 1, t, T]`): the same shape."""
        queries = self._split(self.q(_join(x, guidance)))
        # Pixels and heads share the mask, so they are one axis.
        flat = [part.flatten(1, 2) for part in (queries, keys, values)]
        read = F.scaled_dot_product_attention(flat[0], flat[1], flat[2], attn_mask=neighbours[:, None])
        read = read.unflatten(1, queries.shape[1:3]).permute(0, 3, 1, 2, 4).flatten(3)
        return self.proj(read)

    def _split(self, x: Tensor) -> Tensor:
        """`[B, T, N, C]` -> `[B, N, A, T, C / A]`"""
        return x.unflatten(3, (self.heads, -1)).permute(0, 2, 3, 1, 4)


class NearestClassAggregation(ClassAggregation):
    """`ClassAggregation` with `NearestClassAttention`."""

    attention: NearestClassAttention

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
            attention=NearestClassAttention(channels=channels, heads=heads, guidance_channels=guidance_channels),
            channels=channels,
            train_pooling=train_pooling,
            test_pooling=test_pooling,
            feed_forward=feed_forward,
        )

    def exchange(
        self, pooled: Sequence[Tensor], guidance: Sequence[Tensor | None], neighbours: Tensor | None
    ) -> Iterator[Tensor]:
        assert neighbours is not None, "nearest classes come from the text embeddings"
        neighbours = neighbours if neighbours.ndim == 3 else neighbours[None]
        parts = [self.attention.keys_values(self.norm1(x), g) for x, g in zip(pooled, guidance, strict=True)]
        keys, values = (torch.cat(part, dim=3) for part in zip(*parts, strict=True))
        first = 0
        for x, g in zip(pooled, guidance, strict=True):
            rows = neighbours[:, first : first + x.shape[1]]
            first += x.shape[1]
            yield self.attention(self.norm1(x), keys, values, rows, g)


def _join(x: Tensor, guidance: Tensor | None) -> Tensor:
    return x if guidance is None else torch.cat([x, guidance.expand(*x.shape[:3], -1)], dim=-1)
