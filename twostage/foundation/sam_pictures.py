"""Pictures as SAM takes them, and its masks at a picture's size: the longer side is 1,024 pixels, the rest is padding."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from twostage.foundation.loading import IMAGENET_STATISTICS
from twostage.inference.resampling import Size


def fitted(size: Size, side: int) -> Size:
    """A picture's size when its longer side is `side`.

    >>> fitted((120, 240), 1024)
    (512, 1024)
    """
    scale = side / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def rounded_up(pixels: np.ndarray, multiple: int) -> np.ndarray:
    """`[H, W, 3]` uint8 stretched to sides that are multiples of `multiple` (OpenCV, bilinear), as Trident does first."""
    height, width = (-(-side // multiple) * multiple for side in pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return pixels
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)


def sam_input(pixels: np.ndarray, side: int) -> Tensor:
    """`[1, 3, side, side]` in SAM's units of a picture `[H, W, 3]` uint8: Pillow's bilinear resize, then zero padding."""
    height, width = fitted((pixels.shape[0], pixels.shape[1]), side)
    resized = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    small = torch.from_numpy(resized).permute(2, 0, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET_STATISTICS)
    return F.pad((small - mean) / std, (0, side - width, 0, side - height))[None]


def masks_at_size(logits: Tensor, *, inside: Size, size: Size, side: int) -> Tensor:
    """Mask logits `[P, M, h, w]` of the square at a picture's `size`; `inside` is the picture's part of the square."""
    whole = F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)
    cut = whole[..., : inside[0], : inside[1]]
    return F.interpolate(cut, size=size, mode="bilinear", align_corners=False)
