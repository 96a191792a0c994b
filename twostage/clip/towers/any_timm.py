"""Dense features of any other timm tower of open_clip (EVA, PE, ViTamin, ConvNeXt, ...): as the tower is, nothing replaced.

What a picture's pooling and projection would say of a single patch: every token that is pooled is that patch. So one way
serves class tokens, means and attention pooling alike.

Legend: B images, h x w patches, W the trunk's width, D embedding size.
"""

from __future__ import annotations

import torch
from timm.layers import Format
from torch import Tensor

from twostage.clip.towers.vit import Tower

# Patches that are pooled together; bounds the memory.
_BLOCK = 1024


def is_timm(visual: Tower) -> bool:
    """Whether `visual` is one of timm's networks that gives features before its pooling."""
    trunk = getattr(visual, "trunk", None)
    return trunk is not None and hasattr(trunk, "forward_features") and hasattr(trunk, "forward_head")


def timm_stride(visual: Tower) -> int:
    """Side in pixels of the square that one feature stands for."""
    trunk = visual.trunk
    info = getattr(trunk, "feature_info", None)
    if info:
        return int((info[-1] if isinstance(info, list) else info.info[-1])["reduction"])
    return int(trunk.patch_embed.patch_size[0])


def allow_any_size(visual: Tower) -> None:
    """Let a transformer's position tables be fitted (by timm's rule) to pictures of any size, in place."""
    trunk = visual.trunk
    if hasattr(trunk, "dynamic_img_size"):
        trunk.dynamic_img_size = True
    for module in trunk.modules():
        if hasattr(module, "strict_img_size"):
            module.strict_img_size = False
            module.flatten, module.output_fmt = False, Format.NHWC


def timm_dense(visual: Tower, images: Tensor) -> Tensor:
    """`[B, D, h, w]`, not of unit length, of normalised images `[B, 3, H, W]` whose sides are multiples of the stride."""
    trunk = visual.trunk
    stride = timm_stride(visual)
    grid = (images.shape[2] // stride, images.shape[3] // stride)
    if (rotary := getattr(trunk, "rope", None)) is not None:
        rotary.update_feat_shape(grid)
    features = trunk.forward_features(images)
    if features.ndim == 4:
        patches = features.permute(0, 2, 3, 1).flatten(0, 2)
        parts = [visual.head(trunk.forward_head(some[..., None, None])) for some in patches.split(_BLOCK)]
    else:
        prefix = features.shape[1] - grid[0] * grid[1]
        patches = features[:, prefix:].flatten(0, 1)
        alone = [some[:, None].expand(-1, prefix + 1, -1) for some in patches.split(_BLOCK)]
        parts = [visual.head(trunk.forward_head(some)) for some in alone]
    return torch.cat(parts).unflatten(0, (len(images), *grid)).permute(0, 3, 1, 2)
