"""Where CAT-Seg's image guidance comes from: earlier blocks of CLIP itself (v2), a second backbone (v1) or a frozen ViT.

Legend: V views, D embedding size, h x w CLIP's patch grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from twostage.clip.statistics import Pictures, PixelUnits
from twostage.clip.towers.vit import Tokens
from twostage.systems.one_stage.cost_aggregation.parts import DenseBackbone


class GuideMaps(NamedTuple):
    """Sources of guidance: `appearance` `[V, C, h, w]` on CLIP's grid, `decoder` maps of twice and four times that grid."""

    appearance: Tensor
    decoder: list[Tensor]


class Views(Protocol):
    """What a guide needs of `views.py`."""

    def cut(self, images: ImageList, side: int) -> Tensor: ...


class Guide(Protocol):
    """A source of guidance.

    Attributes:
        taps: blocks of CLIP whose outputs it wants; i is the output of the i-th block.
    """

    taps: list[int]

    def __call__(self, images: Pictures, views: Views, embeddings: Tokens, tapped: dict[int, Tokens]) -> GuideMaps:
        """From the images, or from CLIP's pass over their views: all tokens' `embeddings` and the `tapped` blocks."""
        ...


class TapGuide(nn.Module):
    """v2: CLIP's dense embeddings, and the outputs of two earlier blocks, upsampled by transposed convolutions."""

    def __init__(self, *, taps: Sequence[int], width: int, channels: Sequence[int]) -> None:
        """
        Args:
            taps: the tapped blocks; i is the output of the i-th block.
            width: of CLIP's image tower.
            channels: of the upsampled maps.
        """
        super().__init__()
        self.taps = list(taps)
        self.upsampling = upsampling(width, channels)

    def forward(self, images: Pictures, views: Views, embeddings: Tokens, tapped: dict[int, Tokens]) -> GuideMaps:
        """From CLIP's pass over the views; the images themselves are not looked at again."""
        maps = [up(tapped[tap].patch_map) for up, tap in zip(self.upsampling, self.taps, strict=True)]
        return GuideMaps(embeddings.patch_map, maps)


class BackboneGuide(nn.Module):
    """v1: res4, res3 and res2 of a backbone of its own, with its own resolution and input statistics."""

    def __init__(self, *, backbone: Backbone, side: int, units: PixelUnits, trained: bool) -> None:
        """
        Args:
            backbone: gives res2, res3 and res4 (strides 4, 8, 16).
            side: of the square that a view is resized to.
            units: the backbone's.
            trained: False freezes it (its stochastic depth stays on in training, as in the published runs).
        """
        super().__init__()
        self.taps: list[int] = []
        self.backbone = backbone
        self.side = side
        self.units = units
        for name, parameter in backbone.named_parameters():
            # The published runs never train the norm of res2, whatever the multiplier.
            parameter.requires_grad_(trained and parameter.requires_grad and not name.startswith("norm0."))

    def forward(self, images: Pictures, views: Views, embeddings: Tokens, tapped: dict[int, Tokens]) -> GuideMaps:
        """From the pictures themselves."""
        features = self.backbone(views.cut(images.in_units(self.units), self.side))
        return GuideMaps(features["res4"], [features["res3"], features["res2"]])


class ViTGuide(nn.Module):
    """A frozen ViT besides CLIP, seen on CLIP's grid: its dense features, and two blocks of it, upsampled."""

    def __init__(self, *, vit: DenseBackbone, channels: Sequence[int]) -> None:
        """
        Args:
            vit: whose grid is CLIP's.
            channels: of the upsampled maps.
        """
        super().__init__()
        self.taps: list[int] = []
        self.backbone = vit
        self.upsampling = upsampling(vit.width, channels)

    def forward(self, images: Pictures, views: Views, embeddings: Tokens, tapped: dict[int, Tokens]) -> GuideMaps:
        """From the pictures themselves."""
        *early, last = self.backbone(images, views.cut)
        return GuideMaps(last, [up(maps) for up, maps in zip(self.upsampling, early, strict=True)])


def upsampling(width: int, channels: Sequence[int]) -> nn.ModuleList:
    """Transposed convolutions that double and quadruple a grid."""
    return nn.ModuleList(
        nn.ConvTranspose2d(width, out, kernel_size=scale, stride=scale)
        for out, scale in zip(channels, (2, 4), strict=True)
    )
