"""The one deterministic transform that fvcore's module lacks: resizing with PIL, as training recipes expect."""

from __future__ import annotations

import numpy as np
import torch
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    TransformList,
)
from PIL import Image
from torch.nn import functional as F

__all__ = [
    "CropTransform",
    "HFlipTransform",
    "NoOpTransform",
    "ResizeTransform",
    "Transform",
    "TransformList",
]

_TORCH_MODES = {
    Image.Resampling.NEAREST: "nearest",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}


class ResizeTransform(Transform):
    """Resize from (h, w) to (new_h, new_w)."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        """
        Args:
            interp: PIL's filter for images, default bilinear; labels are always resized by nearest neighbour.
        """
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.Resampling.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """`[H, W]` or `[H, W, C]`: uint8 by PIL, which smooths when it shrinks; other types by torch, which does not."""
        assert img.shape[:2] == (self.h, self.w), f"image is {img.shape[:2]}, expected {(self.h, self.w)}"
        method = Image.Resampling(self.interp if interp is None else interp)
        return self._by_pil(img, method) if img.dtype == np.uint8 else self._by_torch(img, method)

    def _by_pil(self, img: np.ndarray, method: Image.Resampling) -> np.ndarray:
        single = img.ndim == 3 and img.shape[2] == 1
        image = Image.fromarray(img[:, :, 0] if single else img)
        resized = np.asarray(image.resize((self.new_w, self.new_h), method))
        return resized[:, :, None] if single else resized

    def _by_torch(self, img: np.ndarray, method: Image.Resampling) -> np.ndarray:
        # torch knows no negative strides, which flips make.
        tensor = torch.from_numpy(np.ascontiguousarray(img)).reshape(self.h, self.w, -1).permute(2, 0, 1)[None]
        mode = _TORCH_MODES[method]
        align = None if mode == "nearest" else False
        resized = F.interpolate(tensor, (self.new_h, self.new_w), mode=mode, align_corners=align)[0]
        return resized.permute(1, 2, 0).numpy().reshape(self.new_h, self.new_w, *img.shape[2:])

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """`[N, 2]` points (x, y)."""
        return coords * np.array([self.new_w / self.w, self.new_h / self.h], dtype=coords.dtype)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """`[H, W]` labels."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)

    def inverse(self) -> ResizeTransform:
        """Back to the old size."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
