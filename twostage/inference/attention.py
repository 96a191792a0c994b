"""Attention of inference, by whichever of two exact ways is the faster one on this processor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from twostage.inference.precision import in_float32
from twostage.machine import cpu_has_bfloat16_in_vectors_alone

# Attention weights that are held at a time (8 MiB of bfloat16).
_BLOCK_WEIGHTS = 4 * 1024 * 1024


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of queries `[B, H, N, D]` to keys and values `[B, H, M, D]`, scaled by the root of D: `[B, H, N, D]`.

    torch's fused kernel, but for bfloat16 on processors that have its dot products and no matrix units (AVX512-BF16 without
    AMX): there the kernel is slower than in float32, while two products of plain matrices are not. Rows of weights are then
    held in blocks, which a backward pass would keep, hence in inference only.
    """
    if (
        q.dtype != torch.bfloat16
        or q.device.type != "cpu"
        or torch.is_grad_enabled()
        or not cpu_has_bfloat16_in_vectors_alone()
    ):
        return F.scaled_dot_product_attention(q, k, v)
    return attend_in_blocks(q, k, v)


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend` by plain products, in blocks of queries; weights are rounded to the inputs' precision."""
    batch, heads, queries, width = q.shape
    rows = max(1, _BLOCK_WEIGHTS // (batch * heads * k.shape[2]))
    # What comes in has its precision already; autocast would look at each product again.
    with in_float32(q.device):
        scaled, keys, values = (q * width**-0.5).contiguous(), k.contiguous().mT, v.contiguous()
        read = torch.empty_like(scaled)
        for start in range(0, queries, rows):
            block = slice(start, start + rows)
            read[:, :, block] = (scaled[:, :, block] @ keys).softmax(dim=-1) @ values
    return read
