"""MaskCLIP+'s target networks: a dilated ResNet with DeepLab's heads, whose output is compared with text embeddings.

Backbone: timm's ResNet-C (deep stem, mmseg's ResNetV1c) at output stride 8; where a stage's stride becomes a dilation its
first block keeps the dilation before it. DeepLab-v2 (Chen et al., PAMI 2018): the sum of four dilated 3 x 3 convolutions.
DeepLab-v3+ (Chen et al., ECCV 2018): separable atrous pyramid, image pooling, a refinement with the first stage.

Legend: B images, h x w the grid of stride 8, D the text embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.clip.loading import load_clip
from twostage.clip.towers.convnext import require_convnext, stage_outputs, stage_widths
from twostage.errors import UserError, near_names


class ConvNormReLU(nn.Module):
    """Convolution without bias that keeps the size, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels: int, size: int, *, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = dilation * (size // 2)
        self.conv = nn.Conv2d(
            channels_in, channels, size, padding=padding, dilation=dilation, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, channels_in, h, w]` -> `[B, channels, h, w]`."""
        return F.relu(self._norm(self.conv(x)))

    def _norm(self, x: Tensor) -> Tensor:
        bn = self.bn
        if bn.training and x[:, 0].numel() == 1:
            # A single value per channel (the pooled picture of a batch of one) has no statistics; the running ones stand in.
            return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        return bn(x)


class SeparableConv(nn.Module):
    """Depthwise 3 x 3, then pointwise convolution, each with norm and ReLU."""

    def __init__(self, channels_in: int, channels: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = ConvNormReLU(channels_in, channels_in, 3, dilation=dilation, groups=channels_in)
        self.pointwise = ConvNormReLU(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, channels_in, h, w]` -> `[B, channels, h, w]`."""
        return self.pointwise(self.depthwise(x))


class DilatedResNet(nn.Module):
    """The four stages of a timm ResNet, the last ones dilated."""

    def __init__(self, name: str, *, pretrained: bool = False, output_stride: int = 8) -> None:
        """
        Args:
            name: a timm ResNet, "resnet50c" or "resnet101c" as published.
            pretrained: start from timm's ImageNet weights (downloaded).
            output_stride: of the last stage, 8, 16 or 32.

        Raises:
            UserError: timm has no such ResNet, or its weights can't be had.
        """
        super().__init__()
        if not name.startswith("resnet") or not timm.is_model(name):
            near = near_names(name, timm.list_models("resnet*"))
            raise UserError(f"MODEL.MASKCLIP_PLUS.BACKBONE is {name!r}{near}; give a timm ResNet such as 'resnet101c'")
        try:
            net: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, output_stride=output_stride)
        except (RuntimeError, OSError, NotImplementedError) as error:
            raise UserError(
                f"MODEL.MASKCLIP_PLUS.BACKBONE {name!r} can't be had ({' '.join(str(error).split())[:160]}); set "
                "MODEL.MASKCLIP_PLUS.PRETRAINED to False, or choose another"
            ) from error
        self.conv1, self.bn1, self.act1, self.maxpool = net.conv1, net.bn1, net.act1, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        info = {entry["module"]: entry["num_chs"] for entry in net.feature_info}
        self.channels = [info[f"layer{stage}"] for stage in (1, 2, 3, 4)]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Outputs of the four stages, at output stride 8 of strides 4, 8, 8, 8."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(images))))
        outputs = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            outputs.append(x)
        return outputs


class DilatedConvNeXt(nn.Module):
    """The four stages of a CLIP's ConvNeXt, the last ones dilated, with what CLIP learnt from captions."""

    def __init__(self, name: str, *, weights: str = "", output_stride: int = 8) -> None:
        """
        Args:
            name: an open_clip model with a ConvNeXt image tower, "convnext_base_w" or "toybox-convnext".
            weights: as MODEL.CLIP.PRETRAINED; "" for random ones.
            output_stride: of the last stage, 8, 16 or 32.

        Raises:
            UserError: the model is unknown or no ConvNeXt, or its weights can't be had.
        """
        super().__init__()
        clip, _ = load_clip(name, pretrained=weights)
        require_convnext(clip.visual, "MODEL.MASKCLIP_PLUS.BACKBONE")
        config: Any = open_clip.get_model_config(name)
        net: Any = timm.create_model(
            config["vision_cfg"]["timm_model_name"], num_classes=0, output_stride=output_stride
        )
        net.load_state_dict(clip.visual.trunk.state_dict())
        self.stem, self.stages = net.stem, net.stages
        self.channels = stage_widths(clip.visual)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Outputs of the four stages, at output stride 8 of strides 4, 8, 8, 8."""
        return stage_outputs(self, images)


class DeepLabV2Head(nn.Module):
    """Sum of dilated 3 x 3 convolutions of the last stage."""

    def __init__(self, channels: Sequence[int], dimension: int, *, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(ConvNormReLU(channels[-1], dimension, 3, dilation=d) for d in dilations)

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Features `[B, D, h, w]`."""
        return torch.stack([branch(stages[-1]) for branch in self.branches]).sum(dim=0)


class DeepLabV3PlusHead(nn.Module):
    """Separable atrous pyramid of the last stage, refined with the first stage at stride 4."""

    def __init__(
        self,
        channels: Sequence[int],
        dimension: int,
        *,
        dilations: Sequence[int] = (12, 24, 36),
        low_level_channels: int = 48,
    ) -> None:
        super().__init__()
        last = channels[-1]
        self.image_pool = ConvNormReLU(last, dimension, 1)
        separable = [SeparableConv(last, dimension, dilation=d) for d in dilations]
        self.branches = nn.ModuleList([ConvNormReLU(last, dimension, 1), *separable])
        self.bottleneck = ConvNormReLU((2 + len(dilations)) * dimension, dimension, 3)
        self.low_level = ConvNormReLU(channels[0], low_level_channels, 1)
        refined = SeparableConv(dimension + low_level_channels, dimension)
        self.refine = nn.Sequential(refined, SeparableConv(dimension, dimension))

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Features `[B, D, 2 h, 2 w]`."""
        x = stages[-1]
        pooled = self.image_pool(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        x = self.bottleneck(torch.cat([pooled, *(branch(x) for branch in self.branches)], dim=1))
        low = self.low_level(stages[0])
        x = F.interpolate(x, size=low.shape[2:], mode="bilinear", align_corners=False)
        return self.refine(torch.cat([x, low], dim=1))


HEADS: dict[str, type[DeepLabV2Head] | type[DeepLabV3PlusHead]] = {
    "deeplabv2": DeepLabV2Head,
    "deeplabv3plus": DeepLabV3PlusHead,
}
