"""Mask prompts: learned tokens in place of a masked crop's blank patches (OVSeg, Liang et al., CVPR 2023, section 3.3).

The prompts are the parameter `mask_embedding` `[depth, P, W]` of CLIP's image tower: layer 0 replaces patch embeddings
before the position embedding, layer d the tokens after block d. P is the number of patches (or 1: one token for all).

Legend: N crops, P patches, W width, S side of a crop in pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.clip.towers.vit import Replacement, Tower, image_embeddings, require_vit, resize_patch_positions
from twostage.errors import UserError

# Name of the prompts among a CLIP model's parameters.
MASK_PROMPT_NAME = "visual.mask_embedding"
_INITIAL_STD = 0.02


def add_mask_prompts(visual: Tower, depth: int, prompts: Tensor | None = None) -> None:
    """Give the image tower `visual` mask prompts of `depth` layers: `prompts`, else fresh ones drawn from N(0, 0.02).

    Raises:
        UserError: the tower is no plain ViT, has fewer blocks, or `prompts` are of another shape.
    """
    require_vit(visual, "mask prompts (MODEL.CLIP.MASK_PROMPT_DEPTH)")
    blocks = len(visual.transformer.resblocks)
    if not 0 < depth <= blocks:
        raise UserError(f"MODEL.CLIP.MASK_PROMPT_DEPTH is {depth}; this CLIP has {blocks} blocks, so 0 to {blocks} fit")
    patches, width = len(visual.positional_embedding) - 1, visual.positional_embedding.shape[1]
    if prompts is None:
        prompts = _INITIAL_STD * torch.randn(depth, patches, width)
    if prompts.shape not in ((depth, patches, width), (depth, 1, width)):
        raise UserError(
            f"MODEL.CLIP.MASK_PROMPT_DEPTH is {depth}, but CLIP's weights hold mask prompts of shape "
            f"{tuple(prompts.shape)}; ({depth}, {patches}, {width}) is needed, its first number is the depth"
        )
    visual.mask_embedding = nn.Parameter(prompts.float())


def has_mask_prompts(visual: Tower) -> bool:
    """Whether the image tower has mask prompts."""
    return hasattr(visual, "mask_embedding")


def visible_patches(masks: Tensor, patch_size: int) -> Tensor:
    """`[N, P, 1]`: 1 where a patch holds any foreground of `masks` `[N, 1, S, S]` (values 0..1), else 0."""
    return F.avg_pool2d(masks, patch_size).ceil().flatten(2).transpose(1, 2)


def mask_replacement(visual: Tower, masks: Tensor) -> Replacement:
    """What `vit.embed_image` and `vit.run_blocks` call to put prompts in place of the patches that `masks` leave blank.

    Args:
        masks: `[N, 1, S, S]`, 1 on the foreground.
    """
    patch = visual.conv1.kernel_size[0]
    prompts = _prompts_for_grid(visual.mask_embedding, (masks.shape[2] // patch, masks.shape[3] // patch))
    visible = visible_patches(masks, patch).to(prompts.dtype)

    def replace(layer: int, tokens: Tensor) -> Tensor:
        if layer >= len(prompts):
            return tokens
        return tokens * visible + prompts[layer] * (1 - visible)

    return replace


def _prompts_for_grid(prompts: Tensor, grid: tuple[int, int]) -> Tensor:
    """`[depth, h * w, W]` for a patch grid `(h, w)`, resized as the position embedding is; one token for all stays one."""
    if prompts.shape[1] == 1:
        return prompts
    return torch.stack([resize_patch_positions(layer, grid) for layer in prompts])


def masked_image_embeddings(visual: Tower, crops: Tensor, masks: Tensor | None) -> Tensor:
    """CLIP embeddings `[N, D]` of normalised `crops` `[N, 3, S, S]`, not of unit length.

    Args:
        masks: `[N, 1, S, S]` foreground; blank patches become prompts. None: the crops as they are.
    """
    replace = None if masks is None else mask_replacement(visual, masks)
    return image_embeddings(visual, crops, replace)
