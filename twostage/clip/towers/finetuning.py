"""Which of CLIP's parameters a system trains, by name; and the split attention weights that some choices need."""

from __future__ import annotations

import re

from torch import nn

from twostage.clip.loading import ClipModel

# Choice of MODEL.CLIP.FINETUNE -> regular expression for the names (open_clip's) that are trained.
_TRAINED = {
    "none": None,
    # CAT-Seg v2 ("attention"): query and value weights of every block of both towers. Biases stay frozen, and so do the
    # position embeddings, whose names the published rule misses.
    "query_value": r"(visual\.)?transformer\..*attn\.[qv]_proj_weight",
    # CAT-Seg v1 ("attention"): all attention parameters and the position embedding of the image tower.
    "visual_attention": r"visual\.(.*attn\..*|positional_embedding)",
    # CAT-Seg v2 ("full"): both transformers.
    "transformers": r"(visual\.)?transformer\..*",
    # SED ("full"): the image tower.
    "visual": r"visual\..*",
}


def train_parts(clip: ClipModel, choice: str) -> None:
    """Let exactly the parameters of `choice` (see `MODEL.CLIP.FINETUNE`) require gradients, in place.

    Raises:
        ValueError: the choice names nothing in this CLIP, as attention in a convolutional tower.
    """
    if choice == "query_value":
        split_attention(clip)
    pattern = _TRAINED[choice]
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
