"""From a model's output to the size of the original image."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def sem_seg_postprocess(result: Tensor, img_size: tuple[int, int], output_height: int, output_width: int) -> Tensor:
    """Scores `[C, H, W]` of a padded image: cut to `img_size` (height, width), resized bilinearly to the output size."""
    height, width = img_size
    scores = result[None, :, :height, :width]
    return F.interpolate(scores, size=(output_height, output_width), mode="bilinear", align_corners=False)[0]
