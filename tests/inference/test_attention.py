"""Attention in blocks of queries against torch's fused kernel and a written-out softmax in double precision."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from twostage.inference import attention
from twostage.inference.attention import attend, attend_in_blocks


@pytest.fixture
def heads(monkeypatch):
    """Blocks of 3 of the 8 queries, so that the last block is smaller; keys of another number."""
    monkeypatch.setattr(attention, "_BLOCK_WEIGHTS", 2 * 3 * 11 * 3)
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 3, 8, 5), (2, 3, 11, 5), (2, 3, 11, 5))
    # Heads as towers hand them out, strided.
    return [torch.randn(b, n, h, d, generator=generator).transpose(1, 2) * 2 for b, h, n, d in sizes]


def test_blocks_are_the_kernel(heads):
    torch.testing.assert_close(attend_in_blocks(*heads), F.scaled_dot_product_attention(*heads), rtol=1e-5, atol=1e-6)


def test_bfloat16_is_as_near_as_the_kernel(heads):
    """Rounded weights and scores may cost no more than twice what the kernel loses."""
    q, k, v = (part.double() for part in heads)
    exact = (q @ k.mT / 5**0.5).softmax(-1) @ v
    reduced = [part.bfloat16() for part in heads]
    kernel = (F.scaled_dot_product_attention(*reduced).double() - exact).norm()
    assert (attend_in_blocks(*reduced).double() - exact).norm() < 2 * kernel
    # Autocast has nothing to say in it.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = attend_in_blocks(*reduced)
    outside = attend_in_blocks(*reduced)
    assert within.dtype == torch.bfloat16 and torch.equal(within, outside)


@pytest.mark.parametrize("vectors_alone", [False, True])
def test_choice(heads, monkeypatch, vectors_alone):
    """Blocks for bfloat16 in inference on processors with vectors alone; the kernel for all else."""
    calls = []
    monkeypatch.setattr(attention, "cpu_has_bfloat16_in_vectors_alone", lambda: vectors_alone)
    monkeypatch.setattr(attention, "attend_in_blocks", lambda q, *_: calls.append(q.dtype) or q)
    reduced = [part.bfloat16() for part in heads]
    with torch.inference_mode():
        attend(*heads)
        attend(*reduced)
    attend(*reduced)
    assert calls == ([torch.bfloat16] if vectors_alone else [])
