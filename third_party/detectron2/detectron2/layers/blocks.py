"""Base of residual blocks."""

from __future__ import annotations

from torch import nn

from detectron2.layers.batch_norm import FrozenBatchNorm2d


class CNNBlockBase(nn.Module):
    """A block that knows its channels and stride and can be frozen."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self) -> CNNBlockBase:
        """Stop training its parameters and fix its batch norms; returns the block."""
        for parameter in self.parameters():
            parameter.requires_grad = False
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self
