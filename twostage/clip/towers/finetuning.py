"""Which of CLIP's parameters a system trains, by name; and the split attention weights that some choices need."""

from __future__ import annotations

import re

from torch import nn

from twostage.clip.keys import TRAINED_PARAMETERS
from twostage.clip.loading import ClipModel


def train_parts(clip: ClipModel, choice: str) -> None:
    """Let exactly the parameters of `choice` (of `TRAINED_PARAMETERS`) require gradients, in place.

    Raises:
        ValueError: the choice names nothing in this CLIP, as attention in a convolutional tower.
    """
    if choice == "query_value":
        split_attention(clip)
    pattern = TRAINED_PARAMETERS[choice]
    trained = 0
    for name, parameter in clip.named_parameters():
        parameter.requires_grad_(pattern is not None and re.fullmatch(pattern, name) is not None)
        trained += parameter.requires_grad
    if pattern is not None and not trained:
        raise ValueError(f"MODEL.CLIP.FINETUNE {choice!r} names no parameter of this CLIP")


def split_attention(module: nn.Module) -> None:
    """Split `in_proj_weight` `[3W, W]` of every attention in `module` into `q_`, `k_` and `v_proj_weight`, in place.

    So a part of it can be trained alone: weight decay and optimizer state are per tensor. The bias stays packed. These are
    torch's own names for unpacked weights, and those of the published CAT-Seg checkpoints.
    """
    for attention in module.modules():
        if not isinstance(attention, nn.MultiheadAttention) or attention.in_proj_weight is None:
            continue
        packed = attention.in_proj_weight.detach()
        attention.register_parameter("in_proj_weight", None)
        for letter, weight in zip("qkv", packed.chunk(3), strict=True):
            attention.register_parameter(f"{letter}_proj_weight", nn.Parameter(weight.clone()))
        # torch's switch between packed and unpacked weights.
        attention._qkv_same_embed_dim = False
