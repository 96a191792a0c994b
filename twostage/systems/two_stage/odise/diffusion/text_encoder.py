"""What Stable Diffusion v1's text encoder makes of the empty prompt, from its tensors alone.

The encoder is CLIP ViT-L/14's text tower. ODISE needs it for one constant, so it is run once when the weights are read, as
a function of these tensors, and no module of it is kept.

Legend: L prompt tokens, D their channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

# The tokenizer pads with the end token.
_START, _END = 49406, 49407
_HEAD_WIDTH = 64
_QUICK_GELU = 1.702
# Prefix of the names, as in the transformers library.
_PREFIX = "text_model."


@torch.no_grad()
def empty_prompt(tensors: Mapping[str, Tensor]) -> Tensor:
    """Tokens `[1, L, D]` behind the final norm, for "".

    Args:
        tensors: of the encoder, by the names of the transformers library ("text_model.embeddings....").

    Raises:
        KeyError: one is missing.
    """
    weights = {name.removeprefix(_PREFIX): tensor.float() for name, tensor in tensors.items()}
    positions = weights["embeddings.position_embedding.weight"]
    ids = torch.full((len(positions),), _END)
    ids[0] = _START
    x = (weights["embeddings.token_embedding.weight"][ids] + positions)[None]
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layers."))
    for index in range(layers):
        x = _layer(weights, f"encoder.layers.{index}.", x)
    return _norm(weights, "final_layer_norm", x)


def _layer(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    normed = _norm(weights, f"{name}layer_norm1", x)
    q, k, v = (
        _linear(weights, f"{name}self_attn.{part}_proj", normed).unflatten(-1, (-1, _HEAD_WIDTH)).transpose(1, 2)
        for part in "qkv"
    )
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    x = x + _linear(weights, f"{name}self_attn.out_proj", attended)
    hidden = _linear(weights, f"{name}mlp.fc1", _norm(weights, f"{name}layer_norm2", x))
    return x + _linear(weights, f"{name}mlp.fc2", hidden * torch.sigmoid(_QUICK_GELU * hidden))


def _linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])
