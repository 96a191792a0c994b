"""Losses of class presence, a multi-label problem in which most classes are absent.

Legend: B images, T classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Asymmetric loss: focusing of positives and of negatives, and the probability margin below which a negative counts nothing;
# the paper's values for MS-COCO.
_POSITIVE_FOCUS = 0.0
_NEGATIVE_FOCUS = 4.0
_MARGIN = 0.05


def present_classes(labels: Tensor, classes: int) -> Tensor:
    """Which of `classes` occur in label maps `[B, H, W]`: float `[B, T]` of 0 and 1; labels outside 0..T-1 are ignored."""
    known = labels.where((labels >= 0) & (labels < classes), labels.new_tensor(classes))
    found = torch.zeros(len(labels), classes + 1, device=labels.device)
    return found.scatter_(1, known.flatten(1), 1.0)[:, :classes]


def binary_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross entropy of logits `[B, T]`."""
    return F.binary_cross_entropy_with_logits(logits, targets)


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    positive_focus: float = _POSITIVE_FOCUS,
    negative_focus: float = _NEGATIVE_FOCUS,
    margin: float = _MARGIN,
) -> Tensor:
    """Asymmetric loss (Ridnik, Ben-Baruch et al., ICCV 2021, section 2), the mean over logits `[B, T]`.

    With p the probability and p_m = max(p - margin, 0): -(1 - p)^positive_focus log p for classes that are present,
    -p_m^negative_focus log(1 - p_m) for absent ones. Easy negatives, of which there are many, count little or nothing.
    """
    p = logits.sigmoid()
    shifted = (p - margin).clamp(min=0)
    present = (1 - p) ** positive_focus * F.logsigmoid(logits)
    absent = shifted**negative_focus * torch.log1p(-shifted)
    return -(targets * present + (1 - targets) * absent).mean()
