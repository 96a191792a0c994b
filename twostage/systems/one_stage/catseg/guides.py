"""Where CAT-Seg's image guidance comes from: earlier blocks of CLIP itself (v2), or a second backbone (v1).

Legend: V views, D embedding size, h x w CLIP's patch grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from twostage.clip.vit import Tokens


class GuideMaps(NamedTuple):
    """Sources of guidance: `appearance` `[V, C, h, w]` on CLIP's grid, `decoder` maps of twice and four times that grid."""

    appearance: Tensor
    decoder: list[Tensor]


class Views(Protocol):
    """What a guide needs of `views.py`."""

    def cut(self, images: ImageList, side: int) -> Tensor: ...


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
        self.upsampling = nn.ModuleList(
            nn.ConvTranspose2d(width, out, kernel_size=scale, stride=scale)
            for out, scale in zip(channels, (2, 4), strict=True)
        )

    def forward(self, images: ImageList, views: Views, embeddings: Tokens, tapped: dict[int, Tokens]) -> GuideMaps:
        """From CLIP's pass over the views; the images themselves are not looked at again."""
        maps = [up(tapped[tap].patch_map) for up, tap in zip(self.upsampling, self.taps, strict=True)]
        return GuideMaps(embeddings.patch_map, maps)


class BackboneGuide(nn.Module):
    """v1: res4, res3 and res2 of a backbone of its own, with its own resolution and input statistics."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        side: int,
        scale: Sequence[Sequence[float]],
        trained: bool,
    ) -> None:
        """
        Args:
            backbone: gives res2, res3 and res4 (strides 4, 8, 16).
            side: of the square that a view is resized to.
            scale: mean and deviation that lead from CLIP's normalised pixels to the backbone's.
            trained: False freezes it (its stochastic depth stays on in training, as in the published runs).
        """
        super().__init__()
        self.taps: list[int] = []
        self.backbone = backbone
        self.side = side
        for name, parameter in backbone.named_parameters():
            # The published runs never train the norm of res2, whatever the multiplier.
            parameter.requires_grad_(trained and parameter.requires_grad and not name.startswith("norm0."))
        for name, values in zip(("mean", "std"), scale, strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: ImageList, views: Views, embeddings: Tokens, tapped: dict[int, Tokens]) -> GuideMaps:
        """From the images, normalised as CLIP wants them."""
        features = self.backbone(views.cut(self._renormalise(images), self.side))
        return GuideMaps(features["res4"], [features["res3"], features["res2"]])

    def _renormalise(self, images: ImageList) -> ImageList:
        """The images as the backbone wants them; padding is 0 again."""
        tensor = torch.zeros_like(images.tensor)
        for index, (height, width) in enumerate(images.image_sizes):
            tensor[index, :, :height, :width] = (images[index] - self.mean) / self.std
        return ImageList(tensor, images.image_sizes)


def between_scales(
    *, mean: Sequence[float], std: Sequence[float], new_mean: Sequence[float], new_std: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Mean and deviation that turn pixels normalised by `mean`, `std` into pixels normalised by `new_mean`, `new_std`."""
    return (
        [(n - m) / s for m, s, n in zip(mean, std, new_mean, strict=True)],
        [n / s for s, n in zip(std, new_std, strict=True)],
    )
