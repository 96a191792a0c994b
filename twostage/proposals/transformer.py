"""Post-norm transformer layers of mask generators (DETR, Carion et al., ECCV 2020; Mask2Former, section 3.2).

Legend: B images, Q queries, S memory tokens, C width, H heads. Everything is batch first.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from twostage.inference.rows import by_rows
from twostage.recomputation import recomputable


def attend(
    attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None
) -> Tensor:
    """`attention` of `query` `[B, Q, C]` to `key`, `value` `[B, S, C]` `[B, Q, C]`, in one fused step.

    Args:
        attention: holds the weights, and the dropout of the attention weights in training.
        allowed: bool `[B, Q, S]`, True where a query may look; shared by all heads.
    """
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, w, b).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    mask = None if allowed is None else allowed[:, None]
    dropout = attention.dropout if attention.training else 0.0
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return attention.out_proj(out.transpose(1, 2).flatten(2))


class AttentionLayer(nn.Module):
    """norm(x + attention(x + position, memory + memory position, memory)); without a memory, self-attention."""

    def __init__(self, *, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.attn.out_proj.weight)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        memory: Tensor | None = None,
        memory_position: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            x, position: queries and their position codes `[B, Q, C]`.
            memory, memory_position: `[B, S, C]`; without memory the queries attend to each other, positions included.
            allowed: bool `[B, Q, S]`, True where a query may look.
        """
        query = x + position
        if memory is None:
            key, value = query, x
        else:
            key = memory if memory_position is None else memory + memory_position
            value = memory
        return self.norm(x + self.dropout(attend(self.attn, query, key, value, allowed)))


class FeedForwardLayer(nn.Module):
    """norm(x + linear2(relu(linear1(x))))."""

    def __init__(self, *, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return by_rows(self._forward, x, self.linear1.out_features)

    def _forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))))


class DecoderLayer(nn.Module):
    """Queries look at each other and at a memory, then pass a feed-forward layer.

    MaskFormer's (DETR's) layers begin with self-attention, Mask2Former's with cross-attention.
    """

    def __init__(
        self, *, width: int, heads: int, hidden: int, cross_attention_first: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.cross_attention_first = cross_attention_first
        self.cross_attention = AttentionLayer(width=width, heads=heads, dropout=dropout)
        self.self_attention = AttentionLayer(width=width, heads=heads, dropout=dropout)
        self.feed_forward = FeedForwardLayer(width=width, hidden=hidden, dropout=dropout)

    @recomputable
    def forward(
        self, x: Tensor, position: Tensor, memory: Tensor, memory_position: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """See `AttentionLayer`; `allowed` restricts the cross-attention."""
        if self.cross_attention_first:
            x = self.cross_attention(x, position, memory, memory_position, allowed)
            x = self.self_attention(x, position)
        else:
            x = self.self_attention(x, position)
            x = self.cross_attention(x, position, memory, memory_position, allowed)
        return self.feed_forward(x)
