"""Colour augmentation of SSD (ECCV 2016, section 2.2; Howard 2013)."""

from __future__ import annotations

import random

import cv2
import numpy as np
from fvcore.transforms.transform import Transform

__all__ = ["ColorAugSSDTransform"]


class ColorAugSSDTransform(Transform):
    """Random brightness, contrast, saturation and hue, each with probability one half.

    It draws when it is applied, from Python's `random`: applied twice it gives two images. Labels and coordinates are
    left alone.
    """

    def __init__(
        self,
        img_format: str,
        brightness_delta: int = 32,
        contrast_low: float = 0.5,
        contrast_high: float = 1.5,
        saturation_low: float = 0.5,
        saturation_high: float = 1.5,
        hue_delta: int = 18,
    ) -> None:
        """
        Args:
            img_format: "RGB" or "BGR".
            hue_delta: in units of two degrees.
        """
        super().__init__()
        assert img_format in ("BGR", "RGB"), f"img_format is 'RGB' or 'BGR', not {img_format!r}"
        self.img_format = img_format
        self.brightness_delta = brightness_delta
        self.contrast_low, self.contrast_high = contrast_low, contrast_high
        self.saturation_low, self.saturation_high = saturation_low, saturation_high
        self.hue_delta = hue_delta

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """uint8 `[H, W, 3]` to the same."""
        is_rgb = self.img_format == "RGB"
        img = self._brightness(img[:, :, ::-1] if is_rgb else img)
        # Contrast before or after the colours.
        if _coin():
            img = self._hue(self._saturation(self._contrast(img)))
        else:
            img = self._contrast(self._hue(self._saturation(img)))
        return img[:, :, ::-1] if is_rgb else img

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def _brightness(self, img: np.ndarray) -> np.ndarray:
        return _linear(img, shift=random.uniform(-self.brightness_delta, self.brightness_delta)) if _coin() else img

    def _contrast(self, img: np.ndarray) -> np.ndarray:
        return _linear(img, factor=random.uniform(self.contrast_low, self.contrast_high)) if _coin() else img

    def _saturation(self, img: np.ndarray) -> np.ndarray:
        if not _coin():
            return img
        hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
        hsv[:, :, 1] = _linear(hsv[:, :, 1], factor=random.uniform(self.saturation_low, self.saturation_high))
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)

    def _hue(self, img: np.ndarray) -> np.ndarray:
        if not _coin():
            return img
        hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
        # OpenCV halves the hue's degrees, so that they fit into a byte.
        hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + random.randint(-self.hue_delta, self.hue_delta)) % 180
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def _coin() -> bool:
    return random.randrange(2) == 1


def _linear(img: np.ndarray, *, factor: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.clip(img.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)
