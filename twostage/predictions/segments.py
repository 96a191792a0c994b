"""Segments from mask predictions by Mask2Former's rules (Cheng et al., CVPR 2022): panoptic segments, instances, proposals.

Masks are resized to the output size in strips of rows, so that no floating-point map of all masks is ever held.

Legend: Q masks, C classes, n segments of an image, height x width the wanted output size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor

from twostage.inference import blocks
from twostage.inference.resampling import Size
from twostage.predictions.masks import MaskPrediction


def panoptic_segments(
    prediction: MaskPrediction,
    sizes: Sequence[Size],
    things: Collection[int],
    *,
    score_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> list[tuple[Tensor, list[dict[str, Any]]]]:
    """Non-overlapping segments: (ids int32 `[height, width]`, 0 = none; list of `id`, `category_id`, `isthing`) per image.

    Masks whose best class is not void and scores above `score_threshold` compete for pixels by score * mask probability; a
    mask that wins less than `overlap_threshold` of its own area (probability 0.5 on) is dropped; what is left of it is where
    it wins and has that probability; segments of one stuff class become one. Masks of classes that are not named
    (`MaskPrediction.num_named`) compete alike and leave no segment.

    Args:
        things: classes of which every mask is a segment of its own; the others are stuff.
    """
    thresholds = (score_threshold, overlap_threshold)
    return [_panoptic_of_image(prediction, i, size, frozenset(things), *thresholds) for i, size in enumerate(sizes)]


def _panoptic_of_image(
    prediction: MaskPrediction,
    index: int,
    size: Size,
    things: frozenset[int],
    score_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict[str, Any]]]:
    scores, classes = prediction.label_probabilities[index].max(dim=-1)
    kept = ((classes != prediction.num_classes) & (scores > score_threshold)).nonzero().flatten()
    if len(kept) == 0:
        return torch.zeros(size, dtype=torch.int32, device=scores.device), []
    owner, inside, valid = _compete(prediction, index, size, kept, scores[kept], overlap_threshold)
    # Id of each mask, 0 where it is dropped.
    ids_of = torch.zeros(len(kept), dtype=torch.int32, device=scores.device)
    segments: list[dict[str, Any]] = []
    stuff_ids: dict[int, int] = {}
    for position in valid.nonzero().flatten().tolist():
        category = int(classes[kept[position]])
        if prediction.num_named is not None and category >= prediction.num_named:
            continue
        if category in stuff_ids:
            ids_of[position] = stuff_ids[category]
            continue
        segments.append({"id": len(segments) + 1, "category_id": category, "isthing": category in things})
        ids_of[position] = segments[-1]["id"]
        if category not in things:
            stuff_ids[category] = segments[-1]["id"]
    return torch.where(inside, ids_of[owner], 0), segments


def _compete(
    prediction: MaskPrediction, index: int, size: Size, kept: Tensor, scores: Tensor, overlap_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The mask that wins each pixel and whether it covers it, int64 and bool `[height, width]`; which of the `kept` masks
    `[n]` with `scores` `[n]` keep enough of their area, bool `[n]`."""
    owner = torch.empty(size, dtype=torch.int64, device=scores.device)
    inside = torch.empty(size, dtype=torch.bool, device=scores.device)
    own_area = torch.zeros(len(kept), dtype=torch.int64, device=scores.device)
    for rows, logits in _logit_strips(prediction, index, kept, size, maps_held=3):
        probabilities = logits.sigmoid()
        owner[rows] = (scores[:, None, None] * probabilities).argmax(dim=0)
        inside[rows] = probabilities.gather(0, owner[rows][None])[0] >= 0.5
        own_area += (probabilities >= 0.5).flatten(1).sum(1)
    won_area = torch.bincount(owner.flatten(), minlength=len(kept))
    kept_area = torch.bincount(owner[inside], minlength=len(kept))
    valid = (kept_area > 0) & (won_area / own_area.clamp(min=1) >= overlap_threshold)
    return owner, inside, valid


def instances(
    prediction: MaskPrediction, sizes: Sequence[Size], things: Collection[int] | None = None, *, top_k: int = 100
) -> list[Instances]:
    """The best pairs of a mask and a class, best first.

    The `top_k` most probable pairs among all classes, of which those stay whose class is in `things`; the score is the
    probability times the mean mask probability inside the mask. Classes that are not named (`MaskPrediction.num_named`)
    make none.

    Args:
        things: classes that come as instances; None for all.

    Returns:
        `scores` `[n]`, `pred_classes` int64 `[n]`, `pred_masks` bool `[n, height, width]` per image, n <= top_k.
    """
    return [_instances_of_image(prediction, i, size, things, top_k) for i, size in enumerate(sizes)]


def _instances_of_image(
    prediction: MaskPrediction, index: int, size: Size, things: Collection[int] | None, top_k: int
) -> Instances:
    named = prediction.num_classes if prediction.num_named is None else prediction.num_named
    probabilities = prediction.label_probabilities[index, :, :named]
    scores, pairs = probabilities.flatten().topk(min(top_k, probabilities.numel()))
    queries, classes = pairs // named, pairs % named
    if things is not None:
        kept = torch.isin(classes, torch.tensor(sorted(things), dtype=classes.dtype, device=classes.device))
        scores, queries, classes = scores[kept], queries[kept], classes[kept]
    # A mask that is paired with several classes is resized once.
    used, place = queries.unique(return_inverse=True)
    masks, certainty = _masks_and_certainty(prediction, index, used, size)
    scores, order = (scores * certainty[place]).sort(descending=True, stable=True)
    return Instances(size, scores=scores, pred_classes=classes[order], pred_masks=masks[place[order]])


def _masks_and_certainty(prediction: MaskPrediction, index: int, queries: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Masks bool `[n, height, width]` of `queries` and their mean probability inside `[n]`."""
    masks = torch.empty((len(queries), *size), dtype=torch.bool, device=queries.device)
    total = prediction.mask_logits.new_zeros(len(queries))
    for rows, logits in _logit_strips(prediction, index, queries, size, maps_held=2):
        masks[:, rows] = logits > 0
        total += (logits.sigmoid() * masks[:, rows]).flatten(1).sum(dim=1)
    return masks, total / (masks.flatten(1).sum(dim=1) + 1e-6)


def proposals(prediction: MaskPrediction, sizes: Sequence[Size]) -> list[Instances]:
    """All masks whatever their class, best first, as `scores` `[Q]` and `pred_masks` bool `[Q, height, width]` per image.

    The score (objectness, 0..1) is what the void class leaves; a mask is where its probability is above one half.
    """
    result = []
    objectness = 1 - prediction.class_logits.softmax(dim=-1)[..., -1]
    for index, size in enumerate(sizes):
        scores, order = objectness[index].sort(descending=True, stable=True)
        masks = torch.empty((len(order), *size), dtype=torch.bool, device=order.device)
        for rows, logits in _logit_strips(prediction, index, order, size, maps_held=1):
            masks[:, rows] = logits > 0
        result.append(Instances(size, scores=scores, pred_masks=masks))
    return result


def _logit_strips(
    prediction: MaskPrediction, index: int, queries: Tensor, size: Size, *, maps_held: int
) -> Iterator[tuple[slice, Tensor]]:
    """Logits `[n, rows, width]` of the masks `queries` of image `index`, strip by strip.

    Args:
        maps_held: floats per pixel and mask that the strip's user holds at a time.
    """
    logits = prediction.mask_logits[index, queries]
    resample = prediction.resampler(index, size)
    for rows in blocks.strips(size, maps_held * max(1, len(queries))):
        yield rows, resample(logits, rows.start, rows.stop)
