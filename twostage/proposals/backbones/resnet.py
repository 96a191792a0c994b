"""ResNet with bottleneck blocks (He et al., CVPR 2016) under Detectron2's parameter names, with DeepLab's stem as an option.

Legend: image `[B, 3, H, W]`; res2, res3, res4, res5 are `[B, 256 * 2^i, H / 4 / 2^i, W / 4 / 2^i]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn

# Blocks of res2 to res5.
_BLOCKS = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STAGES = ("res2", "res3", "res4", "res5")


def _conv(channels: int, out: int, size: int, *, norm: str, stride: int = 1, dilation: int = 1) -> Conv2d:
    """Convolution without bias that keeps the grid (up to its stride), then `norm`."""
    layer = Conv2d(
        channels,
        out,
        kernel_size=size,
        stride=stride,
        padding=dilation * (size // 2),
        dilation=dilation,
        bias=False,
        norm=get_norm(norm, out),
    )
    c2_msra_fill(layer)
    return layer


class Stem(CNNBlockBase):
    """Stride 4: one 7x7 convolution ("basic") or three 3x3 ones ("deeplab"), then max pooling."""

    def __init__(self, *, kind: str, channels: int, norm: str) -> None:
        super().__init__(3, channels, 4)
        if kind == "basic":
            self.conv1 = _conv(3, channels, 7, norm=norm, stride=2)
        else:
            self.conv1 = _conv(3, channels // 2, 3, norm=norm, stride=2)
            self.conv2 = _conv(channels // 2, channels // 2, 3, norm=norm)
            self.conv3 = _conv(channels // 2, channels, 3, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = F.relu_(layer(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class Bottleneck(CNNBlockBase):
    """1x1, 3x3, 1x1 convolutions beside a shortcut, which is a convolution where the shape changes."""

    def __init__(
        self, *, channels: int, width: int, out: int, stride: int, dilation: int, stride_in_1x1: bool, norm: str
    ) -> None:
        super().__init__(channels, out, stride)
        self.shortcut = _conv(channels, out, 1, norm=norm, stride=stride) if channels != out else None
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = _conv(channels, width, 1, norm=norm, stride=first)
        self.conv2 = _conv(width, width, 3, norm=norm, stride=second, dilation=dilation)
        self.conv3 = _conv(width, out, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.conv1(x))
        out = F.relu_(self.conv2(out))
        out = self.conv3(out)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class ResNet(Backbone):
    """Feature maps `out_features` of an image; stages behind the last wanted one are not built."""

    def __init__(
        self,
        *,
        depth: int,
        out_features: Sequence[str],
        norm: str,
        stem_type: str = "basic",
        stem_channels: int = 64,
        res2_channels: int = 256,
        bottleneck_width: int = 64,
        stride_in_1x1: bool = False,
        res5_dilation: int = 1,
        res5_multi_grid: Sequence[int] = (1, 1, 1),
        freeze_at: int = 0,
    ) -> None:
        """
        Args:
            depth: 14, 26, 50, 101 or 152.
            norm: "FrozenBN", "BN", "SyncBN", "GN".
            stem_type: "basic" or "deeplab".
            res5_dilation: above 1, res5 keeps the stride of res4.
            res5_multi_grid: dilations of res5's blocks, times `res5_dilation`.
            freeze_at: 1 freezes the stem, 2 res2 as well, and so on.
        """
        super().__init__()
        self.stem = Stem(kind=stem_type, channels=stem_channels, norm=norm)
        self._out_features = list(out_features)
        self._out_feature_channels, self._out_feature_strides = {}, {}
        channels, stride = stem_channels, 4
        last = max(STAGES.index(name) for name in out_features)
        for index, name in enumerate(STAGES[: last + 1]):
            is_res5 = name == "res5"
            dilations = [res5_dilation * m for m in res5_multi_grid] if is_res5 else []
            first_stride = 1 if index == 0 or (is_res5 and res5_dilation > 1) else 2
            blocks = []
            for block in range(_BLOCKS[depth][index]):
                blocks.append(
                    Bottleneck(
                        channels=channels,
                        width=bottleneck_width * 2**index,
                        out=res2_channels * 2**index,
                        stride=first_stride if block == 0 else 1,
                        dilation=dilations[block] if dilations else 1,
                        stride_in_1x1=stride_in_1x1,
                        norm=norm,
                    )
                )
                channels = res2_channels * 2**index
            stride *= first_stride
            self.add_module(name, nn.Sequential(*blocks))
            self._out_feature_channels[name], self._out_feature_strides[name] = channels, stride
        self._freeze(freeze_at)

    def _freeze(self, freeze_at: int) -> None:
        if freeze_at >= 1:
            self.stem.freeze()
        for number, name in enumerate(STAGES, start=2):
            if freeze_at >= number and hasattr(self, name):
                for block in getattr(self, name):
                    block.freeze()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`[B, 3, H, W]` to the wanted maps by name."""
        outputs = {}
        x = self.stem(images)
        for name in STAGES:
            if hasattr(self, name):
                x = getattr(self, name)(x)
                if name in self._out_features:
                    outputs[name] = x
        return outputs


@BACKBONE_REGISTRY.register()
def resnet(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """The ResNet of `MODEL.RESNETS` and `MODEL.BACKBONE.FREEZE_AT`; `input_shape` is Detectron2's, always RGB here."""
    keys = cfg.MODEL.RESNETS
    return ResNet(
        depth=keys.DEPTH,
        out_features=keys.OUT_FEATURES,
        norm=keys.NORM,
        stem_type=keys.STEM_TYPE,
        stem_channels=keys.STEM_OUT_CHANNELS,
        res2_channels=keys.RES2_OUT_CHANNELS,
        bottleneck_width=keys.WIDTH_PER_GROUP,
        stride_in_1x1=keys.STRIDE_IN_1X1,
        res5_dilation=keys.RES5_DILATION,
        res5_multi_grid=keys.RES5_MULTI_GRID,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
