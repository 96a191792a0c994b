"""Mask generators and cost aggregation in the published order of operations. It equals the product's but for rounding.

Rounding matters where masks are cut at a threshold: a pixel whose logit lies within float noise of it falls on either side,
and whoever pools or crops inside the mask sees another region. In the published order a mask generator's CPU results equal
those of the authors' code bit for bit (same torch, same number of threads), so no pixel flips. Sampling alone takes ten
times as long so, the masked decoder twice as long, so the product does without. Where a case's random weights hardly tell
its classes apart, the best one hangs on rounding, too: convolutions of costs are torch's own here.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.inference import precision
from twostage.proposals import deformable_attention, masked_decoder, transformer
from twostage.proposals.masked_decoder import MaskedDecoder

# By its full name, since the package has a function of that name.
_swin = importlib.import_module("twostage.proposals.backbones.swin")


@contextlib.contextmanager
def published_rounding() -> Iterator[None]:
    """Within, generators and cost aggregation compute in the published order of operations; also a decorator."""
    replacements = {
        _swin.attend_in_windows: _attend_in_windows,
        transformer.attend: _attend,
        deformable_attention.sample_by_gathering: deformable_attention.sample_by_grid,
        masked_decoder.features_on_grid: _Unresized,
        precision.is_plain_inference: _never,
    }
    with contextlib.ExitStack() as stack:
        for function, published in replacements.items():
            for module in _holders(function):
                stack.enter_context(mock.patch.object(module, function.__name__, published))
        stack.enter_context(mock.patch.object(MaskedDecoder, "attention_mask", _attention_mask))
        yield


def _holders(function: Callable[..., Any]) -> list[ModuleType]:
    """Modules of ours that call `function` by its name."""
    ours = [module for name, module in sys.modules.items() if name.startswith("twostage.")]
    return [module for module in ours if vars(module).get(function.__name__) is function]


def _never(_weight: Tensor) -> bool:
    """No layer takes another way to what torch's own does."""
    return False


def _attend_in_windows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """`attend_in_windows` step by step: scores, bias, mask, softmax."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT + bias
    if mask is not None:
        scores = scores + mask[:, None]
    return scores.softmax(dim=-1) @ v


def _attend(
    attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None
) -> Tensor:
    """`transformer.attend` in the steps of `nn.MultiheadAttention` where it also returns its weights."""
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, w, b).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    scores = q * q.shape[-1] ** -0.5 @ k.mT
    if allowed is not None:
        scores = scores.masked_fill(~allowed[:, None], float("-inf"))
    shares = F.dropout(scores.softmax(dim=-1), attention.dropout if attention.training else 0.0)
    return attention.out_proj((shares @ v).transpose(1, 2).flatten(2))


class _Unresized(NamedTuple):
    """Mask features as they are, and the grid that the masks made from them are resized to."""

    features: Tensor
    grid: tuple[int, int]


@torch.no_grad()
def _attention_mask(decoder: MaskedDecoder, queries: Tensor, unresized: _Unresized) -> Tensor:
    """`MaskedDecoder.attention_mask` from masks that are made first and resized then."""
    masks = decoder.with_masks(queries, unresized.features).mask_logits
    if masks.shape[-2:] != torch.Size(unresized.grid):
        masks = F.interpolate(masks, size=unresized.grid, mode="bilinear", align_corners=False)
    allowed = masks.flatten(2).sigmoid() >= 0.5
    return allowed | ~allowed.any(dim=-1, keepdim=True)
