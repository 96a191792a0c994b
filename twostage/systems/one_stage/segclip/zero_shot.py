"""Naming SegCLIP's groups with words nobody trained on (SegCLIP, section 4.1).

Legend: N windows, K centres, D embedding size, C classes that have a prompt.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.systems.one_stage.segclip.encoder import ImageEncoding

# Classes of an image that its groups may be named after.
_CLASSES_PER_IMAGE = 5


def group_owners(encoding: ImageEncoding, size: tuple[int, int]) -> Tensor:
    """Which centre owns each pixel of the windows, int64 `[N, height, width]`; `size` is (height, width)."""
    soft = encoding.grouping.soft.unflatten(2, encoding.grid)
    return F.interpolate(soft, size=size, mode="bilinear", align_corners=False).argmax(dim=1)


def group_affinities(encoding: ImageEncoding, text: Tensor, scale: Tensor) -> Tensor:
    """How well each group fits each class, `[N, K, C]`, for unit text embeddings `[C, D]`.

    A group's softmax over all classes, times its softmax over the classes that fit the whole window best.
    """
    logits = scale * F.normalize(encoding.groups, dim=-1) @ text.T
    of_image = scale * F.normalize(encoding.image, dim=-1) @ text.T
    # Made longer, so that fewer classes are no case of their own.
    padded = F.pad(of_image, (0, _CLASSES_PER_IMAGE), value=float("-inf"))
    best = padded.topk(_CLASSES_PER_IMAGE, dim=1).indices
    allowed = torch.zeros_like(padded, dtype=torch.bool).scatter(1, best, True)[:, :-_CLASSES_PER_IMAGE]
    among_best = logits.masked_fill(~allowed[:, None], float("-inf")).softmax(dim=2)
    return among_best * logits.softmax(dim=2)


def add_background(affinities: Tensor, threshold: float) -> Tensor:
    """Scores `[N, K, 1 + C]` with the background first: a group that fits no class well enough is background.

    `threshold` is lowered to the window's best affinity, so that every window shows something.
    """
    best = affinities.amax(dim=2, keepdim=True)
    limit = best.amax(dim=1, keepdim=True).clamp(max=threshold)
    return torch.cat([(best < limit).to(affinities.dtype), affinities], dim=2)
