"""Presence by cross-attention: every class's text embedding looks for itself among an image's dense embeddings.

Query2Label (Liu et al., arXiv 2107.10834, section 3): label embeddings are the queries of a Transformer decoder over the
image's features, and one logit is read from each. Here the queries are text embeddings, so that any word can be asked for,
and there is no self-attention between them: what is said of one class does not depend on which others are asked for.

Legend: B images, T classes, D embedding size, C channels, A heads, N pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttentionHead(nn.Module):
    """A pre-norm decoder layer without self-attention, and a logit that classes share."""

    def __init__(self, *, embedding: int, channels: int, heads: int) -> None:
        """
        Args:
            embedding: D.
        """
        super().__init__()
        self.heads = heads
        self.class_norm = nn.LayerNorm(embedding)
        self.pixel_norm = nn.LayerNorm(embedding)
        self.query = nn.Linear(embedding, channels)
        # A bias of keys adds the same to every pixel, which the softmax takes off again.
        self.key = nn.Linear(embedding, channels, bias=False)
        self.value = nn.Linear(embedding, channels)
        self.proj = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.out_norm = nn.LayerNorm(channels)
        self.logit = nn.Linear(channels, 1)

    def forward(self, pixels: Tensor, text: Tensor) -> Tensor:
        """Logits `[B, T]` of pixels `[B, N, D]` and text embeddings `[T, D]`, both of unit length."""
        normed = self.pixel_norm(pixels)
        keys, values = (self._split(part(normed)) for part in (self.key, self.value))
        queries = self.query(self.class_norm(text)).expand(len(pixels), -1, -1)
        read = F.scaled_dot_product_attention(self._split(queries), keys, values)
        x = queries + self.proj(read.transpose(1, 2).flatten(2))
        x = x + self.mlp(self.norm(x))
        return self.logit(self.out_norm(x))[..., 0]

    def _split(self, x: Tensor) -> Tensor:
        """`[B, L, C]` -> `[B, A, L, C / A]`"""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
