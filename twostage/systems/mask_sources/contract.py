"""Masks from anywhere: one label map per picture, at its own size. What makes it is a config choice (`MODEL.MASKS`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.statistics import Pictures, PixelUnits
from twostage.inference.resampling import Size


class MaskSource(Protocol):
    """What makes the masks of a picture."""

    def __call__(self, picture: Tensor, file_name: str | None) -> Tensor:
        """Label map int64 `[H, W]`, 0 for pixels in no mask, of a picture `[3, H, W]` RGB uint8.

        Args:
            file_name: the picture's, where it comes from a file.

        Raises:
            UserError: masks can't be had for this picture.
        """
        ...


class PicturesWithMasks(Pictures):
    """A batch as a network takes it, and the masks of each picture.

    Attributes:
        masks: label maps int64 `[H, W]` at the pictures' own sizes.
    """

    masks: list[Tensor]

    @classmethod
    def of(
        cls, batch: Sequence[dict[str, Any]], units: PixelUnits, source: MaskSource, size_divisibility: int = 0
    ) -> PicturesWithMasks:
        """The pictures of a batch; masks are made of `original`, the picture before it was resized, where there is one."""
        device = units.mean.device
        made = cls([entry["image"].to(device) for entry in batch], units, size_divisibility)
        made.masks = [
            source(entry.get("original", entry["image"]), entry.get("file_name")).to(device) for entry in batch
        ]
        return made


def paint(masks: Tensor, order: Tensor) -> Tensor:
    """Label map int64 `[H, W]` of masks bool `[M, H, W]`, later ones of `order` `[M]` over earlier ones, numbered from 1 in
    that order; 0 where there is none."""
    if not len(masks):
        return torch.zeros(masks.shape[1:], dtype=torch.int64, device=masks.device)
    numbers = torch.arange(1, len(masks) + 1, device=masks.device)
    return (masks[order] * numbers[:, None, None]).amax(dim=0)


def stacked_masks(label_maps: Sequence[Tensor], sizes: Sequence[Size], padded: Size) -> Tensor:
    """bool `[B, Q, *padded]`, one mask per value of a label map but 0; images with fewer than the most have empty ones.

    Args:
        sizes: the images' in the batch, to which label maps are resized (nearest), inside `padded`.
    """
    values = [labels.unique() for labels in label_maps]
    values = [found[found != 0] for found in values]
    most = max(1, *map(len, values))
    stacked = torch.zeros((len(values), most, *padded), dtype=torch.bool, device=label_maps[0].device)
    for index, (labels, found, (height, width)) in enumerate(zip(label_maps, values, sizes, strict=True)):
        fitted = fitted_labels(labels, (height, width))
        stacked[index, : len(found), :height, :width] = fitted == found[:, None, None]
    return stacked


def fitted_labels(labels: Tensor, size: Size) -> Tensor:
    """A label map int64 `[H, W]` at `size`, nearest neighbours."""
    if tuple(labels.shape) == size:
        return labels
    return F.interpolate(labels[None, None].double(), size=size, mode="nearest")[0, 0].long()
