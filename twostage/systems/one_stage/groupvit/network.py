"""transformers' GroupViT: read from a folder or the hub, its image encoder on windows of any size, its text tower.

Legend: N windows, L patches, K groups of the last stage, W width, D embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.errors import UserError
from twostage.foundation.sam import transformers_library
from twostage.systems.one_stage.segclip.encoder import ImageEncoding
from twostage.systems.one_stage.segclip.semantic_layer import Grouping

_KIND = "groupvit"
# transformers' GroupViTModel; its attributes are beyond what torch's stubs say of a module.
Network = Any


def build_network(name: str, *, read_weights: bool) -> Network:
    """The network of a folder in transformers' layout or of a repository of its hub; "": the published one, at random.

    Args:
        read_weights: False builds the same network without its weights (they come from a checkpoint later).

    Raises:
        UserError: transformers is not installed; nothing is there, it is another network, or tensors are missing.
    """
    library = transformers_library("GroupViT")
    if not name:
        return library.GroupViTModel(library.GroupViTConfig())
    try:
        config = library.AutoConfig.from_pretrained(name)
        if config.model_type != _KIND:
            raise UserError(f"MODEL.GROUPVIT.PRETRAINED {name!r} is a {config.model_type!r}; it must be a {_KIND!r}")
        if not read_weights:
            return library.GroupViTModel(config)
        network, report = library.GroupViTModel.from_pretrained(name, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"MODEL.GROUPVIT.PRETRAINED {name!r} can't be read ({' '.join(str(error).split())[:200]}); give a folder with "
            "config.json and model.safetensors, or a repository of the hub that holds them"
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(
            f"MODEL.GROUPVIT.PRETRAINED {name!r} lacks {len(missing)} tensors (first: {missing[0]!r}); it is no whole GroupViT"
        )
    return network


def encode_windows(network: Network, windows: Tensor) -> ImageEncoding:
    """Groups of normalised windows `[N, 3, h, w]`, whose position embedding is resized (bicubic) to their grid.

    A patch's share of a last group is summed over the groups in between that it belongs to (GroupViT, section 3.2).
    """
    vision = network.vision_model
    side = vision.embeddings.patch_embeddings.patch_size
    grid = (windows.shape[-2] // side[0], windows.shape[-1] // side[1])
    hidden = vision.embeddings(windows, interpolate_pos_encoding=True)
    encoded = vision.encoder(hidden, output_attentions=True, return_dict=True)
    first, *others = encoded.attentions
    soft = first
    for attention in others:
        soft = attention @ soft
    groups = vision.layernorm(encoded.last_hidden_state)
    tokens = torch.cat([groups.mean(dim=1, keepdim=True), groups], dim=1)
    # Its batch norms take rows of embeddings.
    embeddings = network.visual_projection(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
    hard = F.one_hot(soft.argmax(dim=1), soft.shape[1]).mT.to(soft.dtype)
    return ImageEncoding(embeddings[:, 0], embeddings[:, 1:], Grouping(groups, hard, soft), grid)


class TextTower:
    """The network's text tower with the few names of open_clip's that `TextEmbedder` asks for. Owns nothing."""

    # Read as a whole: no end of text for the embedder to look for.
    attn_mask = None

    def __init__(self, network: Network) -> None:
        self._network = network

    @property
    def context_length(self) -> int:
        """Tokens of a prompt."""
        return int(self._network.config.text_config.max_position_embeddings)

    @property
    def token_embedding(self) -> nn.Module:
        """The first layer."""
        return self._network.text_model.embeddings.token_embedding

    @property
    def transformer(self) -> nn.Module:
        """The blocks."""
        return self._network.text_model.encoder

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Of the tower and its projection."""
        yield from self._network.text_model.named_parameters(prefix="text_model")
        yield from self._network.text_projection.named_parameters(prefix="text_projection")

    def __call__(self, tokens: Tensor) -> Tensor:
        """Features `[N, D]` of token ids `[N, L]`, not of unit length."""
        return self._network.text_projection(self._network.text_model(input_ids=tokens).pooler_output)
