"""Masked crops from disk to what CLIP takes: augmented, with the mask read off the blank colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from twostage.clip.statistics import CLIP_STATISTICS, PixelUnits
from twostage.data.images import read_rgb
from twostage.systems.two_stage.ovseg.adaptation.pairs import BLANK

# Least share of a crop's area that the random part keeps.
_LEAST_AREA = 0.9


class CropSample(NamedTuple):
    """A normalised `image` `[3, S, S]`, its foreground `mask` `[1, S, S]` and the number of its title."""

    image: Tensor
    mask: Tensor
    title: int


class PairDataset(Dataset[CropSample]):
    """The pairs of a csv; `titles` are the distinct ones, in order of first appearance."""

    def __init__(self, pairs: Sequence[tuple[Path, str]], *, size: int, augment: bool) -> None:
        """
        Args:
            size: S.
            augment: training's random resized crop (90 to 100 % of the area); else resize and centre crop.
        """
        self.files = [path for path, _ in pairs]
        self.titles = list(dict.fromkeys(title for _, title in pairs))
        numbers = {title: number for number, title in enumerate(self.titles)}
        self.labels = [numbers[title] for _, title in pairs]
        self.size = size
        self._augment = (
            RandomResizedCrop(size, scale=(_LEAST_AREA, 1.0), interpolation=InterpolationMode.BICUBIC)
            if augment
            else None
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> CropSample:
        picture = Image.fromarray(read_rgb(self.files[index]))
        picture = self._augment(picture) if self._augment else centre_crop(picture, self.size)
        pixels = np.array(picture)
        # Resizing blurs the border of the mask; the blurred pixels count as foreground.
        mask = (pixels != np.array(BLANK, np.uint8)).any(axis=-1)
        image = PixelUnits(CLIP_STATISTICS)(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
        return CropSample(image, torch.from_numpy(mask)[None].float(), self.labels[index])


def centre_crop(picture: Image.Image, size: int) -> Image.Image:
    """Short side to `size` (bicubic), then the middle square: CLIP's own way of looking at a picture."""
    width, height = picture.size
    scale = size / min(width, height)
    picture = picture.resize(
        (max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.BICUBIC
    )
    left, top = round((picture.width - size) / 2), round((picture.height - size) / 2)
    return picture.crop((left, top, left + size, top + size))
