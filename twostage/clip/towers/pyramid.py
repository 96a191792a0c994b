"""CLIP's convolutional image towers, ConvNeXt and ResNet, as backbones: four stages that any decoder can stand on.

Legend: B images of H x W pixels; strides 4, 8, 16 and 32; C5 channels of the last stage.
"""

from __future__ import annotations

from torch import Tensor

from twostage.clip.towers import convnext, resnet
from twostage.clip.towers.vit import Tower
from twostage.errors import UserError

STAGES = ("res2", "res3", "res4", "res5")
# Of the last stage.
STRIDE = 32


def require_convolutional(visual: Tower, system: str) -> None:
    """UserError unless `visual` is a ConvNeXt or one of OpenAI's ResNets."""
    if resnet.is_clip_resnet(visual):
        return
    try:
        convnext.require_convnext(visual, system)
    except UserError as error:
        raise UserError(
            f"{system} needs a CLIP with a convolutional image tower; set MODEL.CLIP.NAME to a ConvNeXt or a ResNet, e.g. "
            "'convnext_large_d_320' or 'RN50'"
        ) from error


def pyramid_channels(visual: Tower) -> dict[str, int]:
    """Channels of res2 to res5."""
    widths = resnet.stage_widths(visual) if resnet.is_clip_resnet(visual) else convnext.stage_widths(visual)
    return dict(zip(STAGES, widths, strict=True))


def feature_pyramid(visual: Tower, images: Tensor) -> dict[str, Tensor]:
    """Stages res2 to res5 of normalised images `[B, 3, H, W]`, each `[B, C_i, H / stride, W / stride]`.

    In memory channel by channel, as published: a ConvNeXt's blocks leave the channels last, for which torch has other
    convolutions and another group norm, whose rounding a mask's threshold turns into other pixels.
    """
    if resnet.is_clip_resnet(visual):
        stages = tuple(resnet.resnet_stages(visual, images))
    else:
        stages = tuple(convnext.hierarchical_features(visual, images))
    return {name: stage.contiguous() for name, stage in zip(STAGES, stages, strict=True)}


def to_whole_cells(height: int, width: int) -> tuple[int, int, int, int]:
    """What `torch.nn.functional.pad` adds on the right and below, so that the last stage has whole cells only."""
    return 0, -width % STRIDE, 0, -height % STRIDE
