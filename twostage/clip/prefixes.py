"""A causal text tower without waste: the beginning that prompts share is read once, equal lengths go together, no padding.

Prompts of one template share what stands before the name. Behind a causal mask nothing that follows changes the keys and
values of these positions, so every block computes them once; the rest of each prompt attends to them. Nobody reads other
positions than the end of text, so in the last block that one alone asks and goes on.

Legend: N prompts, L tokens of the longest, S shared tokens, R the others of one prompt, H heads, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.towers.vit import finish_block, merge_heads, project_qkv, run_block_causally

# Fewer prompts than this are not worth a pass over their beginning.
_WORTH_SHARING = 4


class KeysAndValues(NamedTuple):
    """Of the shared tokens in one block, both `[1, H, S, W / H]`."""

    keys: Tensor
    values: Tensor


def ends_of_text(tower: Any, tokens: Tensor) -> Tensor:
    """Outputs `[N, W]` of the last block of `tower` at the end-of-text token, the largest id, of token ids `[N, L]`."""
    blocks = list(tower.transformer.resblocks)
    lengths = (tokens.argmax(dim=1) + 1).tolist()
    shared = shared_length(tokens, min(lengths)) if len(tokens) >= _WORTH_SHARING else 0
    beginning = _read_beginning(tower, blocks, tokens[:1, :shared])
    out = tokens.new_empty((len(tokens), tower.positional_embedding.shape[1]), dtype=tower.positional_embedding.dtype)
    for length in sorted(set(lengths)):
        places = [place for place, own in enumerate(lengths) if own == length]
        rest = tokens[places, shared:length]
        out[places] = _read_rest(blocks, _embed(tower, rest, shared), beginning)
    return out


def shared_length(tokens: Tensor, shortest: int) -> int:
    """Tokens at the beginning that all rows of `[N, L]` share; at most `shortest` - 1, since nobody shares the end of text."""
    same = (tokens[:, : shortest - 1] == tokens[:1, : shortest - 1]).all(dim=0)
    return int(same.long().cumprod(dim=0).sum())


def _embed(tower: Any, tokens: Tensor, start: int) -> Tensor:
    """`[N, R, W]` of token ids `[N, R]` that begin at position `start`."""
    return tower.token_embedding(tokens) + tower.positional_embedding[start : start + tokens.shape[1]]


def _read_beginning(tower: Any, blocks: Sequence[Any], tokens: Tensor) -> list[KeysAndValues]:
    """Keys and values of the shared tokens `[1, S]` in every block; S may be 0."""
    x = _embed(tower, tokens, 0)
    found = []
    for block in blocks:
        x, keys, values = run_block_causally(block, x)
        found.append(KeysAndValues(keys, values))
    return found


def _read_rest(blocks: Sequence[Any], x: Tensor, beginning: Sequence[KeysAndValues]) -> Tensor:
    """The last token `[N, W]` of prompts whose tokens behind the shared ones are `x` `[N, R, W]`."""
    for block, before in zip(blocks, beginning, strict=True):
        number, rest = x.shape[:2]
        q, k, v = project_qkv(block.attn, block.ln_1(x))
        shared = before.keys.shape[2]
        k = torch.cat([before.keys.expand(number, -1, -1, -1), k], dim=2)
        v = torch.cat([before.values.expand(number, -1, -1, -1), v], dim=2)
        if block is blocks[-1]:
            x, q, rest = x[:, -1:], q[:, :, -1:], 1
        # The last token sees everything; of several, each sees what stands before it.
        mask = None if rest == 1 else torch.ones(rest, shared + rest, dtype=torch.bool, device=x.device).tril(shared)
        x = finish_block(block, x, merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))
    return x[:, -1]
