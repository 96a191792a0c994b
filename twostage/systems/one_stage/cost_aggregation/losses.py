"""The loss of cost-aggregation systems: every class against the rest at every pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def one_vs_rest_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross entropy over all images, classes and pixels (CAT-Seg, section 3.4; SED, section 3.2).

    Args:
        logits: `[B, T, h, w]`, resized bilinearly (align_corners False) to the labels.
        labels: int64 `[B, H, W]`. A pixel with a label outside 0..T-1 (ignored) is a negative for every class, as in the
            published runs.
    """
    resized = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    # Not `F.one_hot`, whose int64 takes eight bytes a class and pixel.
    targets = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)[:, None, None]
    return F.binary_cross_entropy_with_logits(resized, targets.to(resized.dtype))
