"""Activation checkpointing: blocks that compute their activations again in the backward pass instead of keeping them.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174. Of a block only its inputs are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from timm.models.convnext import ConvNeXtBlock
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.checkpoint import checkpoint

_MARK = "recomputes_activations"
# Blocks of timm that our networks call as they are.
_OF_TIMM = (Block, ConvNeXtBlock)


def recomputable(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run(block, *inputs)`, a block's forward pass, which recomputes where `recompute_activations` marked the block.

    Random numbers are drawn again as they were; a forward pass that changes anything else must not be decorated.
    """

    @functools.wraps(run)
    def run_or_recompute(block: nn.Module, *inputs: Any) -> Any:
        if getattr(block, _MARK, False) and torch.is_grad_enabled():
            return checkpoint(run, block, *inputs, use_reentrant=False)
        return run(block, *inputs)

    return run_or_recompute


def recompute_activations(model: nn.Module) -> None:
    """Let all blocks of `model` that can recompute do so from now on."""
    for module in model.modules():
        setattr(module, _MARK, True)
        if isinstance(module, _OF_TIMM):
            # Found before the method of the class.
            object.__setattr__(module, "forward", MethodType(recomputable(type(module).forward), module))
