"""Random resizing, cropping and flipping. All draw from numpy's global generator."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from PIL import Image

from detectron2.data.transforms.augmentation import Augmentation, _as_augmentation
from detectron2.data.transforms.transform import ResizeTransform

__all__ = [
    "FixedSizeCrop",
    "RandomApply",
    "RandomCrop",
    "RandomCrop_CategoryAreaConstraint",
    "RandomFlip",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
]

_BILINEAR = Image.Resampling.BILINEAR


class RandomApply(Augmentation):
    """An augmentation that is applied with some probability."""

    def __init__(self, tfm_or_aug: Augmentation | Transform, prob: float = 0.5) -> None:
        super().__init__()
        assert 0.0 <= prob <= 1.0, f"prob must lie between 0 and 1, got {prob}"
        self.prob = prob
        self.aug = _as_augmentation(tfm_or_aug)

    def __call__(self, aug_input: Any) -> Transform:
        return self.aug(aug_input) if np.random.uniform(0, 1.0) < self.prob else NoOpTransform()


class RandomFlip(Augmentation):
    """Flip with probability `prob`, either horizontally or vertically."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False) -> None:
        super().__init__()
        if horizontal == vertical:
            raise ValueError("RandomFlip is either horizontal or vertical; use two for both")
        self.prob, self.horizontal, self.vertical = prob, horizontal, vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if np.random.uniform(0, 1.0) >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """Resize to a fixed (height, width); one number for both."""

    def __init__(self, shape: int | Sequence[int], interp: int = _BILINEAR) -> None:
        self.shape = (shape, shape) if isinstance(shape, int) else (shape[0], shape[1])
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        return ResizeTransform(height, width, *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Resize to a random length of the shorter edge, keeping the aspect ratio."""

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = _BILINEAR,
    ) -> None:
        """
        Args:
            short_edge_length: candidates ("choice"), or smallest and largest ("range"). 0 leaves the image as it is.
            max_size: of the longer edge; a larger one shrinks both.
        """
        super().__init__()
        assert sample_style in ("range", "choice"), f"sample_style is 'range' or 'choice', not {sample_style!r}"
        lengths = (short_edge_length, short_edge_length) if isinstance(short_edge_length, int) else short_edge_length
        assert sample_style == "choice" or len(lengths) == 2, f"a range has two ends, got {lengths}"
        self.short_edge_length, self.max_size = lengths, max_size
        self.sample_style, self.is_range = sample_style, sample_style == "range"
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        if self.is_range:
            length = np.random.randint(self.short_edge_length[0], self.short_edge_length[1] + 1)
        else:
            length = np.random.choice(self.short_edge_length)
        if length == 0:
            return NoOpTransform()
        height, width = image.shape[:2]
        return ResizeTransform(height, width, *self.get_output_shape(height, width, length, self.max_size), self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """(height, width) after resizing; halves are rounded up."""
        scale = short_edge_length * 1.0 / min(oldh, oldw)
        height, width = scale * oldh, scale * oldw
        # The shorter edge exactly, free of the rounding of the product.
        if oldh < oldw:
            height = short_edge_length
        else:
            width = short_edge_length
        if max(height, width) > max_size:
            shrink = max_size * 1.0 / max(height, width)
            height, width = height * shrink, width * shrink
        return int(height + 0.5), int(width + 0.5)


class ResizeScale(Augmentation):
    """Resize to fit into the target size times a random scale, keeping the aspect ratio (large-scale jitter)."""

    def __init__(
        self, min_scale: float, max_scale: float, target_height: int, target_width: int, interp: int = _BILINEAR
    ) -> None:
        super().__init__()
        self.min_scale, self.max_scale = min_scale, max_scale
        self.target_height, self.target_width = target_height, target_width
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        scale = np.random.uniform(self.min_scale, self.max_scale)
        height, width = image.shape[:2]
        ratio = min(self.target_height * scale / height, self.target_width * scale / width)
        new_height, new_width = (int(side) for side in np.round(np.multiply((height, width), ratio)))
        return ResizeTransform(height, width, new_height, new_width, self.interp)


class FixedSizeCrop(Augmentation):
    """Crop at a random place to at most `crop_size` (height, width), then pad right and bottom to exactly that."""

    def __init__(
        self, crop_size: tuple[int, int], pad: bool = True, pad_value: float = 128.0, seg_pad_value: int = 255
    ) -> None:
        super().__init__()
        self.crop_size = crop_size
        self.pad, self.pad_value, self.seg_pad_value = pad, pad_value, seg_pad_value

    def get_transform(self, image: np.ndarray) -> TransformList:
        height, width = image.shape[:2]
        crop_height, crop_width = min(self.crop_size[0], height), min(self.crop_size[1], width)
        # One draw for both axes: the crop moves along a diagonal.
        place = np.random.uniform(0.0, 1.0)
        top, left = (int(room) for room in np.round(np.multiply((height - crop_height, width - crop_width), place)))
        steps: list[Transform] = [CropTransform(left, top, crop_width, crop_height, width, height)]
        if self.pad:
            down, right = self.crop_size[0] - crop_height, self.crop_size[1] - crop_width
            steps.append(PadTransform(0, 0, right, down, crop_width, crop_height, self.pad_value, self.seg_pad_value))
        return TransformList(steps)


class RandomCrop(Augmentation):
    """Crop a random rectangle.

    `crop_type`, with `crop_size` (height, width):
        "relative": these shares of the image's sides;
        "relative_range": shares drawn between these and 1;
        "absolute": these pixels;
        "absolute_range": pixels drawn between the two numbers, for each side.
    Never larger than the image.
    """

    def __init__(self, crop_type: str, crop_size: Sequence[float]) -> None:
        super().__init__()
        known = ("relative", "relative_range", "absolute", "absolute_range")
        assert crop_type in known, f"crop_type is one of {known}, not {crop_type!r}"
        self.crop_type, self.crop_size = crop_type, crop_size

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        crop_height, crop_width = self.get_crop_size((height, width))
        assert height >= crop_height and width >= crop_width, f"can't crop {self.crop_size} from {(height, width)}"
        top = np.random.randint(height - crop_height + 1)
        left = np.random.randint(width - crop_width + 1)
        return CropTransform(left, top, crop_width, crop_height, width, height)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the crop; draws for the range types."""
        height, width = image_size
        if self.crop_type == "relative":
            return int(height * self.crop_size[0] + 0.5), int(width * self.crop_size[1] + 0.5)
        if self.crop_type == "relative_range":
            smallest = np.asarray(self.crop_size, dtype=np.float32)
            share_h, share_w = smallest + np.random.rand(2) * (1 - smallest)
            return int(height * share_h + 0.5), int(width * share_w + 0.5)
        if self.crop_type == "absolute":
            return min(int(self.crop_size[0]), height), min(int(self.crop_size[1]), width)
        low, high = int(self.crop_size[0]), int(self.crop_size[1])
        assert low <= high, f"the range of crop sizes is {self.crop_size}"
        crop_height = np.random.randint(min(height, low), min(height, high) + 1)
        crop_width = np.random.randint(min(width, low), min(width, high) + 1)
        return crop_height, crop_width


class RandomCrop_CategoryAreaConstraint(Augmentation):
    """`RandomCrop` that avoids crops in which one category covers `single_category_max_area` or more; it gives up
    after ten tries and takes the last."""

    _TRIES = 10

    def __init__(
        self,
        crop_type: str,
        crop_size: Sequence[float],
        single_category_max_area: float = 1.0,
        ignored_category: int | None = None,
    ) -> None:
        """
        Args:
            single_category_max_area: share of the labelled pixels; from 1.0 on, any crop is taken.
            ignored_category: label that does not count.
        """
        self.crop_aug = RandomCrop(crop_type, crop_size)
        self.crop_type, self.crop_size = crop_type, crop_size
        self.single_category_max_area = single_category_max_area
        self.ignored_category = ignored_category

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> Transform:
        if self.single_category_max_area >= 1.0:
            return self.crop_aug.get_transform(image)
        for _ in range(self._TRIES):
            crop = self.crop_aug.get_transform(image)
            if self._is_varied(crop.apply_image(sem_seg)):
                break
        return crop

    def _is_varied(self, labels: np.ndarray) -> bool:
        present, areas = np.unique(labels, return_counts=True)
        if self.ignored_category is not None:
            areas = areas[present != self.ignored_category]
        return len(areas) > 1 and areas.max() < areas.sum() * self.single_category_max_area
