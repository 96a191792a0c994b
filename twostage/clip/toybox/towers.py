"""The towers of the tiny CLIPs as training runs them: windows of the canvas, mosaics, restricted class tokens.

Legend: B pictures, P patches, R regions, N tokens, H heads, W width, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.towers.vit import finish_block, merge_heads, project_qkv, project_tokens
from twostage.clip.toybox.models import toybox_tokenizer

# Last blocks in which the class token may be restricted to a region.
_TAILS = (2, 3)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of [B, H, N, W / H], written out: on a CPU the fused kernel's backward pass takes twice the time."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e4)
    return scores.softmax(-1).to(v.dtype) @ v


def attention_block(block: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """One residual attention block on tokens [B, N, W]."""
    q, k, v = project_qkv(block.attn, block.ln_1(x))
    return finish_block(block, x, merge_heads(masked_attention(q, k, v, mask)))


def encode_captions(model: Any, texts: Sequence[str]) -> Tensor:
    """Unit text embeddings [len(texts), D]. The text tower is causal, so it runs only up to the longest caption."""
    tokens = toybox_tokenizer()(list(texts))
    tokens = tokens[:, : int((tokens > 0).sum(1).max())]
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    for block in model.transformer.resblocks:
        x = attention_block(block, x, causal)
    # End of text has the largest id.
    x = model.ln_final(x[torch.arange(len(x)), tokens.argmax(1)]) @ model.text_projection
    return F.normalize(x.float(), dim=-1)


def window_tokens(visual: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    """First tokens [B, 1 + P, W] of pictures that are windows of the model's canvas, each at a random place.

    A small picture gets the position embeddings of its window, as if the rest of a full canvas had been dropped; so
    every position learns from pictures of every size.
    """
    patches = visual.conv1(images)
    rows, cols = patches.shape[2:]
    x = patches.flatten(2).transpose(1, 2)
    side = round((len(visual.positional_embedding) - 1) ** 0.5)
    top = torch.randint(side - rows + 1, (len(x), 1, 1), generator=generator)
    left = torch.randint(side - cols + 1, (len(x), 1, 1), generator=generator)
    index = (top + torch.arange(rows)[:, None]) * side + left + torch.arange(cols)
    x = x + visual.positional_embedding[1:][index.flatten(1)]
    first = (visual.class_embedding + visual.positional_embedding[0]).expand(len(x), 1, -1)
    return visual.ln_pre(torch.cat([first, x], dim=1))


def restricted_class_tokens(blocks: Sequence[Any], x: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Run `blocks` on tokens `x` [B, 1 + P, W] with one copy of the class token per region `inside` [B, R, P] (bool).

    A copy sees itself and the patches of its region; patches see the plain tokens only (SAN's shadow tokens). Returns
    the copies [B, R, W] and the input of the last block, [B, 1 + P, W].
    """
    regions = inside.shape[1]
    shadow, before_last = x[:, :1].expand(-1, regions, -1), x
    itself = torch.eye(regions, dtype=torch.bool).expand(len(x), -1, -1)
    plain = torch.zeros(len(x), regions, 1, dtype=torch.bool)
    mask = torch.cat([itself, plain, inside], 2)[:, None]
    for number, block in enumerate(blocks, start=1):
        before_last = x
        q, k, v = project_qkv(block.attn, block.ln_1(torch.cat([shadow, x], 1)))
        attended = merge_heads(masked_attention(q[:, :, :regions], k, v, mask))
        shadow = finish_block(block, shadow, attended)
        if number < len(blocks):
            attended = merge_heads(masked_attention(q[:, :, regions:], k[:, :, regions:], v[:, :, regions:]))
            x = finish_block(block, x, attended)
    return shadow, before_last


def value_path(visual: Any, x: Tensor) -> Tensor:
    """Dense embeddings [B, P, D] from the last block's input `x` [B, 1 + P, W]: its value and output projections only."""
    last = visual.transformer.resblocks[-1]
    (value,) = project_qkv(last.attn, last.ln_1(x[:, 1:]), "v")
    return project_tokens(visual, last.attn.out_proj(merge_heads(value)))


def vit_features(visual: Any, images: Tensor, mosaic: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Class-token embeddings [B, D] and dense value-path embeddings [B, P, D] of pictures [B, 3, S, S].

    With `mosaic`, four pictures at a time are laid out as one of twice the side, and in the last two or three blocks each
    has its own copy of the class token that sees only a random part of its quarter: the way SAN will ask for a region.
    """
    blocks = list(visual.transformer.resblocks)
    if not mosaic:
        x = window_tokens(visual, images, generator)
        for block in blocks[:-1]:
            x = attention_block(block, x)
        everywhere = torch.ones(len(x), 1, x.shape[1] - 1, dtype=torch.bool)
        token, _ = restricted_class_tokens(blocks[-1:], x, everywhere)
        return project_tokens(visual, token)[:, 0], value_path(visual, x)
    side = images.shape[2]
    canvas = images.unflatten(0, (-1, 2, 2)).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, 2 * side, 2 * side)
    x = window_tokens(visual, canvas, generator)
    half = side // visual.conv1.kernel_size[0]
    quarter = torch.arange(4).view(2, 2).repeat_interleave(half, 0).repeat_interleave(half, 1).flatten()
    kept = (
        torch.rand(len(x), 4, len(quarter), generator=generator) < torch.rand(len(x), 4, 1, generator=generator) + 0.3
    )
    tail = _TAILS[int(torch.randint(len(_TAILS), (1,), generator=generator))]
    for block in blocks[:-tail]:
        x = attention_block(block, x)
    tokens, x = restricted_class_tokens(blocks[-tail:], x, kept & (quarter == torch.arange(4)[:, None]))
    dense = value_path(visual, x).unflatten(1, (2, half, 2, half)).transpose(2, 3)
    return project_tokens(visual, tokens).flatten(0, 1), dense.reshape(len(images), half * half, -1)


def convnext_features(visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled embedding [B, D] and dense embeddings [B, P, D] of a timm tower: the same head on every cell.

    The tower's cells have 32 pixels, nearly a whole thing, so pictures are enlarged to twice their size first; configs
    that use the tower enlarge toybox's scenes alike (`INPUT.MIN_SIZE_TEST`).
    """
    cells = visual.trunk.forward_features(F.interpolate(images, scale_factor=2.0, mode="bilinear"))
    pooled = visual.head(visual.trunk.forward_head(cells))
    dense = visual.head(visual.trunk.head.norm(cells).flatten(2).transpose(1, 2))
    return pooled, dense
