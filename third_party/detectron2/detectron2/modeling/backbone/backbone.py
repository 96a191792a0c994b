"""Base class of backbones."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

from torch import Tensor, nn

from detectron2.layers import ShapeSpec


class Backbone(nn.Module, metaclass=ABCMeta):
    """A network from an image to named feature maps.

    The default `output_shape` reads `_out_features` (names) and, by name, `_out_feature_channels` and
    `_out_feature_strides`, which subclasses set.
    """

    _out_features: list[str]
    _out_feature_channels: dict[str, int]
    _out_feature_strides: dict[str, int]

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Image `[N, C, H, W]` to feature maps by name."""

    @property
    def size_divisibility(self) -> int:
        """Height and width of the input must be multiples of this; 0: any size."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further demands on the input, as `ImageList.from_tensors` takes them."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature map."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
