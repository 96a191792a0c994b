"""MAFT+'s losses beside Mask2Former's (Jiao et al., ECCV 2024, sections 3.2 and 3.4).

Legend: Q masks of an image, G its ground-truth masks, C classes, h x w and H x W grids, K channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.proposals.matching import MaskTargets

# Shares of the map's width that pooled maps resolve.
_SCALES = (1, 2, 4)


def mask_aware_loss(class_logits: Tensor, mask_logits: Tensor, targets: Sequence[MaskTargets]) -> Tensor:
    """How far the score of a ground truth's class is, over all masks, from how well these fit it (mask-aware loss).

    Args:
        class_logits: of all images `[B, Q, C]`, without void.
        mask_logits: `[B, Q, h, w]`; no gradient flows to them.
        targets: ground truth, padded like the batch.

    Returns:
        Smooth L1 loss, mean over all pairs of a mask and a ground truth of its image; 0 where there is no ground truth.
    """
    scores = class_logits.softmax(dim=-1)
    found, wanted = [], []
    for score, logits, target in zip(scores, mask_logits.detach(), targets, strict=True):
        if len(target.classes):
            found.append(score[:, target.classes].T)
            wanted.append(spread(soft_iou(logits, target.masks)))
    if not found:
        return scores.sum() * 0
    return F.smooth_l1_loss(torch.cat(found), torch.cat(wanted))


def soft_iou(mask_logits: Tensor, truth: Tensor) -> Tensor:
    """`[G, Q]`: overlap of mask probabilities, from logits `[Q, h, w]`, with bool masks `[G, H, W]`, on their grid."""
    full = F.interpolate(mask_logits.sigmoid()[None], size=truth.shape[-2:], mode="bilinear", align_corners=False)[0]
    masks, wanted = full.flatten(1), truth.flatten(1).to(full)
    common = wanted @ masks.T
    return common / (wanted.sum(dim=1)[:, None] + masks.sum(dim=1) - common + 1e-7)


def spread(overlap: Tensor) -> Tensor:
    """Every row of `[G, Q]` from 0, its least value, to 1, its greatest."""
    low, high = overlap.aminmax(dim=1, keepdim=True)
    return (overlap - low) / (high - low + 1e-8)


def compensation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 distance of two trunks' features `[B, K, h, w]`, pooled and summed over rows and over columns
    (representation compensation).

    Portrait maps are pooled with other kernels than landscape ones: as published, these follow from w.
    """
    return F.smooth_l1_loss(_profiles(student), _profiles(teacher))


def _profiles(features: Tensor) -> Tensor:
    maps = F.relu(features)
    height, width = maps.shape[-2:]
    if height != width:
        side = max(height, width)
        maps = F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)
    pooled = [F.avg_pool2d(maps, kernel_size=max(1, width // scale)) for scale in _SCALES]
    return torch.cat([m.sum(dim=axis).flatten(1) for m in pooled for axis in (2, 3)], dim=1)
