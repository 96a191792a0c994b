"""Masks from anywhere: one label map per picture, at its own size. What makes it is a config choice (`MODEL.MASKS`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from twostage.clip.statistics import Pictures, PixelUnits


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


def one_hot_masks(labels: Tensor) -> Tensor:
    """bool `[Q, H, W]`, one mask per value of a label map but 0; Q is at least 1, an empty mask where there is none."""
    values = labels.unique()
    values = values[values != 0]
    if not len(values):
        return torch.zeros((1, *labels.shape), dtype=torch.bool, device=labels.device)
    return labels == values[:, None, None]
