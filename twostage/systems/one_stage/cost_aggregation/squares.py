"""Pictures stretched to the square that a convolutional CLIP looks at, whatever their shape (SED, ERR-Seg)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor


def squares(images: ImageList, side: int, *, with_padding: bool) -> Tensor:
    """Normalised images as `[B, 3, side, side]`; the published resize has no antialiasing.

    Args:
        with_padding: as the published training has it; else the padding of a batch is cut off first, so that every image
            is stretched by itself.
    """
    parts = [images.tensor] if with_padding else [images[index][None] for index in range(len(images))]
    return torch.cat([F.interpolate(part, size=(side, side), mode="bilinear", align_corners=False) for part in parts])
