"""SegCLIP's image encoder: CLIP's first blocks on the patches, the semantic layer, CLIP's last blocks on the groups.

Legend: B images, L patches, K centres, W width, D embedding size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from twostage.clip.towers.vit import Tokens, Tower, embed_image, project_tokens, run_blocks
from twostage.systems.one_stage.segclip.semantic_layer import Grouping, SemanticLayer


class ImageEncoding(NamedTuple):
    """Embeddings, not of unit length, and the groups they stand for.

    Attributes:
        image: `[B, D]`.
        groups: `[B, K, D]`, one per centre.
        grouping: which patch belongs to which centre.
        grid: (h, w) of the patches.
    """

    image: Tensor
    groups: Tensor
    grouping: Grouping
    grid: tuple[int, int]


def split_blocks(visual: Tower, group_blocks: int) -> tuple[list[Any], list[Any]]:
    """CLIP's blocks that see patches, and the last `group_blocks`, which see groups."""
    blocks = list(visual.transformer.resblocks)
    return blocks[:-group_blocks], blocks[-group_blocks:]


def encode_image(visual: Tower, semantic_layer: SemanticLayer, images: Tensor, group_blocks: int) -> ImageEncoding:
    """Encode normalised images `[B, 3, H, W]` (SegCLIP, figure 2).

    The class token is dropped at once; the image's token is the maximum over the groups, element by element.
    """
    patch_stage, group_stage = split_blocks(visual, group_blocks)
    tokens = embed_image(visual, images)
    patches, _ = run_blocks(patch_stage, Tokens(tokens.x[:, 1:], tokens.grid))
    grouping = semantic_layer(patches.x)
    groups, _ = run_blocks(group_stage, Tokens(grouping.tokens, tokens.grid))
    image = groups.x.max(dim=1, keepdim=True).values
    embeddings = project_tokens(visual, torch.cat([image, groups.x], dim=1))
    return ImageEncoding(embeddings[:, 0], embeddings[:, 1:], grouping, tokens.grid)
