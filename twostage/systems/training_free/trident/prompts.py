"""From a label map to questions for SAM: one box and one point for every region, one mask for every class.

Work is done at half the picture's size. Legend: h x w that half size, R regions.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.foundation.sam import Sam
from twostage.foundation.sam_pictures import fitted
from twostage.inference.resampling import Size


class Questions(NamedTuple):
    """About the regions of one class: boxes `[R, 4]` and points `[R, 2]` (x first) in pixels of SAM's square, the mask prompt
    `[1, 4 h', 4 w']`, and the regions themselves, bool `[R, h, w]`."""

    boxes: Tensor
    points: Tensor
    mask: Tensor
    regions: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptRule:
    """Which regions are asked about, and how.

    Attributes:
        least_probability: regions are of pixels, and classes have pixels, that are at least this likely.
        least_area: of a region, in pixels of the half size.
        mask_factor: of the class's probability in the mask prompt.
    """

    least_probability: float
    least_area: int
    mask_factor: float

    def questions(
        self, labels: Tensor, number: int, probability: Tensor, *, picture: Size, side: int
    ) -> Questions | None:
        """About class `number`; None where no region is large and likely enough.

        Args:
            labels: int64 `[h, w]`.
            probability: of the class `[h, w]`.
            picture: its size; as released, this and not the slightly stretched one that SAM sees says where things lie.
            side: of the square.
        """
        if float(probability.max()) < self.least_probability:
            return None
        regions = connected_regions(labels == number, self.least_area)
        if not len(regions):
            return None
        inside = fitted(picture, side)
        scale = torch.tensor(
            [inside[1] / labels.shape[1], inside[0] / labels.shape[0]], device=labels.device, dtype=torch.float32
        )
        return Questions(
            boxes=_boxes(regions) * scale.repeat(2),
            points=_likeliest(regions, probability) * scale,
            mask=self._mask_prompt(probability, picture, side // 4),
            regions=regions,
        )

    def _mask_prompt(self, probability: Tensor, picture: Size, side: int) -> Tensor:
        height, width = fitted(picture, side)
        small = F.interpolate(probability[None, None], size=(height, width), mode="bilinear", align_corners=False)[0]
        small = torch.where(small > self.least_probability, small * self.mask_factor, 0.0)
        return F.pad(small, (0, side - width, 0, side - height))


def connected_regions(member: Tensor, least_area: int) -> Tensor:
    """bool `[R, h, w]`: 8-connected parts of `member` `[h, w]` of at least `least_area` pixels, in raster order."""
    count, found = cv2.connectedComponents(member.cpu().numpy().astype(np.uint8), connectivity=8)
    labels = torch.from_numpy(np.asarray(found, dtype=np.int64)).to(member.device)
    areas = torch.bincount(labels.flatten(), minlength=count)
    kept = [number for number in range(1, count) if areas[number] >= least_area]
    # In the order of their first pixels, whatever order the library counts in.
    first = {number: int((labels == number).flatten().nonzero()[0]) for number in kept}
    numbers = torch.tensor(sorted(kept, key=first.__getitem__), device=member.device, dtype=torch.int64)
    return labels == numbers[:, None, None]


def _boxes(regions: Tensor) -> Tensor:
    """Least and greatest x, y `[R, 4]` (x0, y0, x1, y1) of each region."""
    ends = []
    for axis in (1, 2):
        shown = regions.any(dim=axis).long()
        ends.append((shown.argmax(dim=1), shown.shape[1] - 1 - shown.flip(1).argmax(dim=1)))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], dim=1).float()


def _likeliest(regions: Tensor, probability: Tensor) -> Tensor:
    """x, y `[R, 2]` of each region's most probable pixel, the first in raster order."""
    place = (regions * probability).flatten(1).argmax(dim=1)
    width = regions.shape[2]
    return torch.stack([place % width, place // width], dim=1).float()


def dense_prompt(sam: Sam, mask: Tensor) -> Tensor:
    """The embedding `[1, 256, h', w']` of a mask prompt `[1, 4 h', 4 w']` as the released code makes it: without a batch axis,
    so that its channel norms run over the height, while their factors stay the channels'."""
    embed = sam.prompt_encoder.mask_embed
    x = embed.activation(_norm_over_height(embed.conv1(mask), embed.layer_norm1))
    x = embed.activation(_norm_over_height(embed.conv2(x), embed.layer_norm2))
    return embed.conv3(x)[None]


def _norm_over_height(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    """`[C, h, w]`."""
    centred = x - x.mean(dim=1, keepdim=True)
    unit = centred / (centred.square().mean(dim=1, keepdim=True) + norm.eps).sqrt()
    return norm.weight[:, None, None] * unit + norm.bias[:, None, None]
