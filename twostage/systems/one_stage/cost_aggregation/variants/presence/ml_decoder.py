"""Presence by ML-Decoder (Ridnik et al., WACV 2023, section 3), with text embeddings as queries, its zero-shot form.

One decoder layer without self-attention, whose queries are not learnt: relu(W_a t) of a class's text embedding t, and one
output vector Q for all classes of a group. Groups of one class: logit = w Q + b with w shared by all classes (the authors'
zero-shot code). Larger groups make K = T / g queries do for T classes (group decoding): a group's query is the projections
of its classes side by side, and the row of the group's fully connected layer that reads class i from Q comes from its text,
so that it exists for unseen words: logit_i = (W_b t_i) Q / sqrt(C) + b. Classes are grouped in the order of the vocabulary.

Legend: B images, T classes, D embedding size, C channels, N pixels, g classes of a group, K groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLDecoderHead(nn.Module):
    """Post-norm cross-attention and feed-forward network, then the group fully connected layer."""

    def __init__(self, *, embedding: int, channels: int, heads: int, group_size: int = 1, dropout: float = 0.1) -> None:
        """
        Args:
            embedding: D.
            channels: C, 768 in the paper; the feed-forward network has 8 C / 3 (there 2048).
            group_size: g, which divides C.
        """
        super().__init__()
        self.group_size = group_size
        self.pixels = nn.Linear(embedding, channels)
        self.classes = nn.Linear(embedding, channels // group_size)
        self.attention = nn.MultiheadAttention(channels, heads, dropout=dropout, batch_first=True)
        hidden = 8 * channels // 3
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, channels)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        if group_size == 1:
            self.row = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, channels)))
        else:
            self.rows = nn.Linear(embedding, channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, pixels: Tensor, text: Tensor) -> Tensor:
        """Logits `[B, T]` of pixels `[B, N, D]` and text embeddings `[T, D]`, both of unit length."""
        memory = F.relu(self.pixels(pixels))
        queries = self.group_queries(text).expand(len(pixels), -1, -1)
        # In place of self-attention a query adds itself, of which dropout leaves a part in training.
        x = self.norms[0](queries + self.dropout(queries))
        x = self.norms[1](x + self.dropout(self.attention(x, memory, memory, need_weights=False)[0]))
        x = self.norms[2](x + self.dropout(self.mlp(x)))
        if self.group_size == 1:
            return (x * self.row).sum(dim=-1) + self.bias
        # The group of every class, and the row that reads the class from it.
        rows = self.rows(text) / x.shape[-1] ** 0.5
        groups = x.repeat_interleave(self.group_size, dim=1)[:, : len(text)]
        return (groups * rows).sum(dim=-1) + self.bias

    def group_queries(self, text: Tensor) -> Tensor:
        """Queries `[K, C]` of text embeddings `[T, D]`; the last group is filled up with zeros."""
        queries = F.relu(self.classes(text))
        missing = -len(text) % self.group_size
        return F.pad(queries, (0, 0, 0, missing)).unflatten(0, (-1, self.group_size)).flatten(1)
