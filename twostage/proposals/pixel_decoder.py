"""Mask2Former's pixel decoder: deformable attention over three strides, one step of a feature pyramid to stride 4
(Mask2Former, Cheng et al., CVPR 2022, section 3.2 and appendix; Deformable DETR for the encoder).

Legend: B images, C width, S tokens of the strides 32, 16 and 8 together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from twostage.proposals.deformable_attention import DeformableAttention, Grids
from twostage.proposals.position import sine_position_code
from twostage.proposals.transformer import FeedForwardLayer
from twostage.recomputation import recomputable

# From coarse to fine, the order of tokens and of the outputs.
LEVELS = ("res5", "res4", "res3")
_GROUPS = 32


class PixelFeatures(NamedTuple):
    """`levels` `[B, C, h, w]` at strides 32, 16, 8, and `mask_features` `[B, Cm, H / 4, W / 4]`."""

    levels: list[Tensor]
    mask_features: Tensor


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward layer, each followed by a residual and a layer norm."""

    def __init__(self, *, width: int, heads: int, hidden: int, points: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(width=width, heads=heads, levels=len(LEVELS), points=points)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForwardLayer(width=width, hidden=hidden)

    @recomputable
    def forward(self, x: Tensor, position: Tensor, grids: Grids) -> Tensor:
        """`[B, S, C]` to the same."""
        return self.feed_forward(self.norm(x + self.attention(x, position, grids)))


def _projection(channels: int, width: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel_size=1)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.GroupNorm(_GROUPS, width))


class PixelDecoder(nn.Module):
    """From res2 ... res5 to three maps for the queries' attention and one for the masks."""

    def __init__(
        self,
        *,
        channels: Mapping[str, int],
        width: int,
        mask_width: int,
        heads: int,
        layers: int,
        hidden: int,
        points: int,
    ) -> None:
        """
        Args:
            channels: of the backbone's maps res2 to res5.
            width, mask_width: C and Cm.
            layers, heads, hidden, points: of the encoder.
        """
        super().__init__()
        self.input_proj = nn.ModuleList(_projection(channels[name], width) for name in LEVELS)
        self.level_embed = nn.Parameter(torch.randn(len(LEVELS), width))
        self.layers = nn.ModuleList(
            EncoderLayer(width=width, heads=heads, hidden=hidden, points=points) for _ in range(layers)
        )
        self.lateral = Conv2d(
            channels["res2"], width, kernel_size=1, bias=False, norm=nn.GroupNorm(_GROUPS, width), activation=None
        )
        self.output = Conv2d(
            width, width, kernel_size=3, padding=1, bias=False, norm=nn.GroupNorm(_GROUPS, width), activation=F.relu
        )
        self.mask_features = nn.Conv2d(width, mask_width, kernel_size=1)
        for convolution in (self.lateral, self.output, self.mask_features):
            c2_xavier_fill(convolution)

    def forward(self, features: Mapping[str, Tensor]) -> PixelFeatures:
        """Runs in float32 also under autocast, as published."""
        device_type = features["res2"].device.type
        with torch.autocast(device_type, enabled=False):
            maps = [project(features[name].float()) for name, project in zip(LEVELS, self.input_proj, strict=True)]
            levels = self._encode(maps)
            x = self.lateral(features["res2"].float())
            x = x + F.interpolate(levels[-1], size=x.shape[-2:], mode="bilinear", align_corners=False)
            return PixelFeatures(levels, self.mask_features(self.output(x)))

    def _encode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        grids = [(m.shape[2], m.shape[3]) for m in maps]
        device, width = maps[0].device, maps[0].shape[1]
        position = torch.cat(
            [sine_position_code(g, width, device) + e for g, e in zip(grids, self.level_embed, strict=True)]
        )
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        for layer in self.layers:
            x = layer(x, position, grids)
        tokens = x.split([h * w for h, w in grids], dim=1)
        return [t.transpose(1, 2).unflatten(2, g) for t, g in zip(tokens, grids, strict=True)]
