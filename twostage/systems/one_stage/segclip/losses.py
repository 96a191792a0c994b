"""SegCLIP's superpixel loss; its contrastive loss is open_clip's and its reconstruction loss is in `reconstruction.py`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def patch_superpixels(ids: Tensor, patch_size: int) -> Tensor:
    """Superpixel of each patch `[B, L]` from the ids of the pixels `[B, H, W]`.

    The mean of a patch's ids without its fraction, as published: a patch on a border may get an id of its own.
    """
    return F.avg_pool2d(ids[:, None].double(), patch_size).flatten(1).long()


def superpixel_divergences(assignment: Tensor, superpixels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed KL divergences between the assignment and its mean over superpixels (SegCLIP, section 3.3).

    Args:
        assignment: hard assignment of patches to centres `[B, K, L]`.
        superpixels: `[B, L]`, any ids.

    Returns:
        The divergence of the means' softmax from the assignment's, and the other way round; gradients flow into both.
    """
    per_patch = assignment.mT
    same = (superpixels[:, :, None] == superpixels[:, None, :]).to(per_patch.dtype)
    means = same @ per_patch / same.sum(dim=2, keepdim=True)
    log_patch, log_mean = per_patch.log_softmax(dim=2), means.log_softmax(dim=2)
    return (
        F.kl_div(log_patch, log_mean, reduction="sum", log_target=True),
        F.kl_div(log_mean, log_patch, reduction="sum", log_target=True),
    )


def superpixel_loss(assignment: Tensor, superpixels: Tensor) -> Tensor:
    """Mean of both divergences per entry of the assignment; see `superpixel_divergences`."""
    first, second = superpixel_divergences(assignment, superpixels)
    return (first + second) / (2 * assignment.numel())
