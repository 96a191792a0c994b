"""Hierarchical and dense features of open_clip's ConvNeXt image tower (a timm trunk with open_clip's projection head).

Legend: B images of H x W pixels; four stages, each on a grid half as fine as the one before (published
models: strides 4, 8, 16, 32); D is CLIP's embedding size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from timm.layers import DropPath
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from twostage.errors import UserError

# open_clip's image tower; its attributes are beyond what torch's stubs say of a module.
Tower = Any


class Pyramid(NamedTuple):
    """Outputs of the four stages, fine to coarse, without a norm: `[B, C_i, H / stride, W / stride]`."""

    res2: Tensor
    res3: Tensor
    res4: Tensor
    res5: Tensor


def require_convnext(visual: Tower, system: str) -> None:
    """UserError unless `visual` is a ConvNeXt of timm under open_clip's head."""
    if not isinstance(getattr(visual, "trunk", None), ConvNeXt) or len(visual.trunk.stages) != 4:
        raise UserError(
            f"{system} needs a CLIP with a ConvNeXt image tower; set MODEL.CLIP.NAME to one, e.g. 'convnext_base_w_320'"
        )


def stage_widths(visual: Tower) -> list[int]:
    """Channels of res2, res3, res4 and res5."""
    return [int(info["num_chs"]) for info in visual.trunk.feature_info]


def stage_strides(visual: Tower) -> list[int]:
    """Strides of res2, res3, res4 and res5."""
    return [int(info["reduction"]) for info in visual.trunk.feature_info]


def hierarchical_features(visual: Tower, images: Tensor) -> Pyramid:
    """The pyramid of normalised images `[B, 3, H, W]`."""
    return Pyramid(*stage_outputs(visual.trunk, images))


def stage_outputs(trunk: Any, images: Tensor) -> list[Tensor]:
    """What the stages of `trunk` (anything with a ConvNeXt's `stem` and `stages`) make of images `[B, 3, H, W]`."""
    x = trunk.stem(images)
    outputs = []
    for stage in trunk.stages:
        x = stage(x)
        outputs.append(x)
    return outputs


def dense_embeddings(visual: Tower, res5: Tensor) -> Tensor:
    """CLIP embeddings `[B, D, h, w]`, not normalised: every cell of `res5` as if it were the pooled map of an image.

    The norm and the projection act per cell, so a cell needs no pooling (FC-CLIP, Yu et al., NeurIPS 2023, section 3.2).
    """
    cells = visual.trunk.head.norm(visual.trunk.norm_pre(res5)).permute(0, 2, 3, 1)
    return visual.head(visual.trunk.head.drop(cells)).permute(0, 3, 1, 2)


def set_regularisation(visual: Tower, *, drop_path: float, dropout: float) -> None:
    """Stochastic depth, rising linearly over the blocks from 0 to `drop_path`, and dropout in the projection head.

    open_clip's own settings differ between its versions; a training recipe has to name its own.
    """
    blocks = [block for stage in visual.trunk.stages for block in stage.blocks]
    for index, block in enumerate(blocks):
        rate = drop_path * index / max(1, len(blocks) - 1)
        block.drop_path = DropPath(rate) if rate > 0 else nn.Identity()
    for module in visual.head.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
            # Of an MLP only the hidden layer is dropped, not the embedding.
            break
