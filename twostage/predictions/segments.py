"""Proposals and instances from mask predictions (Mask2Former, Cheng et al., CVPR 2022; panoptic segments are a method of
`MaskPrediction`).

Legend: Q masks, C classes, height x width the wanted output size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from twostage.predictions.masks import MaskPrediction, Size

_INSTANCES = 100


class Proposals(NamedTuple):
    """Class-agnostic masks of one image, best first: bool `[Q, height, width]` and objectness `[Q]` in 0..1."""

    masks: Tensor
    scores: Tensor


class InstanceMasks(NamedTuple):
    """Instances of one image, best first: bool `[N, height, width]`, scores `[N]` and classes int64 `[N]`."""

    masks: Tensor
    scores: Tensor
    classes: Tensor


def proposals(prediction: MaskPrediction, sizes: Sequence[Size]) -> list[Proposals]:
    """All masks, where their probability is above one half, by what the generator's void score leaves."""
    result = []
    objectness = 1 - prediction.class_logits.softmax(dim=-1)[..., -1]
    for index, size in enumerate(sizes):
        scores, order = objectness[index].sort(descending=True, stable=True)
        result.append(Proposals(_mask_logits(prediction, index, order, size) > 0, scores))
    return result


def instances(
    prediction: MaskPrediction,
    sizes: Sequence[Size],
    things: Collection[int] | None = None,
    *,
    most: int = _INSTANCES,
) -> list[InstanceMasks]:
    """The best pairs of a mask and a class, scored by class probability times the mean mask probability inside.

    Args:
        things: classes that come as instances, None for all; the best pairs are found among all classes, as published.
        most: pairs per image, before `things` are picked.
    """
    result = []
    probabilities = prediction.label_probabilities[..., :-1]
    for index, size in enumerate(sizes):
        flat = probabilities[index].flatten()
        scores, pairs = flat.topk(min(most, len(flat)))
        masks_of, classes = pairs // prediction.num_classes, pairs % prediction.num_classes
        if things is not None:
            kept = torch.isin(classes, torch.tensor(sorted(things), dtype=classes.dtype, device=classes.device))
            scores, masks_of, classes = scores[kept], masks_of[kept], classes[kept]
        logits = _mask_logits(prediction, index, masks_of, size)
        masks = logits > 0
        inside = (logits.sigmoid() * masks).flatten(1).sum(dim=1) / (masks.flatten(1).sum(dim=1) + 1e-6)
        scores, order = (scores * inside).sort(descending=True, stable=True)
        result.append(InstanceMasks(masks[order], scores, classes[order]))
    return result


def _mask_logits(prediction: MaskPrediction, index: int, which: Tensor, size: Size) -> Tensor:
    """Logits `[N, height, width]` of the masks `which` of image `index`."""
    logits = prediction.mask_logits[index, which]
    grid = (logits.shape[-2], logits.shape[-1])
    return prediction.frames.resampler(index, grid, size, logits.device)(logits)
