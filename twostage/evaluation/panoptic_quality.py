"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4), by the rules of COCO's panopticapi.

A predicted and a labelled segment of one class match where their IoU is above 0.5; void pixels (label id 0) don't count in
the union. Unmatched labels are misses, except crowds; unmatched predictions are false, except where more than half of
their pixels are void or lie in a crowd of their class. PQ = sum of matched IoUs / (TP + FP / 2 + FN / 2) per class, then
the mean over classes that have a segment in labels or predictions; PQ = SQ (mean IoU of matches) * RQ.

Segment maps hold one id per pixel, 0 for none (`twostage.data.segment_maps`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from twostage.data.segment_maps import Segment, check_segments, read_segment_map
from twostage.errors import UserError
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.measures import Counts, EvaluatedImage, Measure
from twostage.evaluation.results import PANOPTIC_GROUPS

_VOID = 0


def match_segments(
    predicted_ids: np.ndarray, predicted: Sequence[Segment], label_ids: np.ndarray, labelled: Sequence[Segment]
) -> Counts:
    """Matches, misses and false segments of one image.

    Args:
        predicted_ids, label_ids: int64 `[H, W]`.
        predicted: `id` and `category_id` of each predicted segment.
        labelled: the same of the labels, optionally with `iscrowd`.

    Returns:
        `tp` classes of the matches and `iou` of each, `fp` and `fn` classes, one entry per segment.

    Raises:
        UserError: a segment map holds an id that its list lacks.
    """
    overlap, predicted_area, label_area = _overlaps(predicted_ids, label_ids)
    predicted_class, label_class = _classes(predicted, predicted_area, "prediction"), _classes(
        labelled, label_area, "label"
    )  # fmt: skip
    is_crowd = {int(s["id"]): bool(s.get("iscrowd", 0)) for s in labelled}
    matches: list[tuple[int, float]] = []
    matched_labels, matched_predictions = set(), set()
    for (label, prediction), pixels in overlap.items():
        if label_class.get(label, -1) != predicted_class.get(prediction, -2) or is_crowd[label]:
            continue
        void = overlap.get((_VOID, prediction), 0)
        iou = pixels / (predicted_area[prediction] + label_area[label] - pixels - void)
        if iou > 0.5:
            matches.append((label_class[label], iou))
            matched_labels.add(label)
            matched_predictions.add(prediction)
    # As in the published code, the last crowd of a class stands for all.
    crowds = {label_class[i]: i for i in label_class if is_crowd[i]}
    missed = [c for i, c in label_class.items() if i not in matched_labels and not is_crowd[i]]
    false = []
    for i, c in predicted_class.items():
        if i in matched_predictions:
            continue
        excused = overlap.get((_VOID, i), 0) + (overlap.get((crowds[c], i), 0) if c in crowds else 0)
        if excused <= 0.5 * predicted_area[i]:
            false.append(c)
    return {
        "tp": np.array([c for c, _ in matches], np.int64),
        "iou": np.array([iou for _, iou in matches], np.float64),
        "fp": np.array(false, np.int64),
        "fn": np.array(missed, np.int64),
    }


def _overlaps(
    predicted: np.ndarray, label: np.ndarray
) -> tuple[dict[tuple[int, int], int], dict[int, int], dict[int, int]]:
    """Pixels of each (label id, predicted id) pair that occurs, and the areas of predicted and label ids."""
    label_ids, row = np.unique(label, return_inverse=True)
    predicted_ids, column = np.unique(predicted, return_inverse=True)
    codes, counts = np.unique(row.reshape(-1) * predicted_ids.size + column.reshape(-1), return_counts=True)
    rows, columns = np.divmod(codes, predicted_ids.size)
    overlap = {
        (g, p): n for g, p, n in zip(label_ids[rows].tolist(), predicted_ids[columns].tolist(), counts.tolist(), strict=True)
    }  # fmt: skip
    predicted_area, label_area = dict.fromkeys(predicted_ids.tolist(), 0), dict.fromkeys(label_ids.tolist(), 0)
    for (g, p), n in overlap.items():
        predicted_area[p] += n
        label_area[g] += n
    return overlap, predicted_area, label_area


def _classes(segments: Sequence[Segment], area: Mapping[int, int], what: str) -> dict[int, int]:
    """Class by id of the segments that have pixels."""
    classes = {int(s["id"]): int(s["category_id"]) for s in segments}
    unknown = [i for i in area if i != _VOID and i not in classes]
    if unknown:
        raise UserError(f"the {what}'s segment map holds id {unknown[0]}, which its list of segments lacks")
    return {i: c for i, c in classes.items() if area.get(i, 0)}


def quality(counts: Counts, num_classes: int) -> dict[str, np.ndarray]:
    """`PQ`, `SQ`, `RQ` `[K]` as fractions; NaN for classes without any segment."""
    hit, false, missed = (np.bincount(counts[key], minlength=num_classes) for key in ("tp", "fp", "fn"))
    # fsum rounds once: the sum does not depend on the order of images or processes.
    by_class = np.split(counts["iou"][np.argsort(counts["tp"], kind="stable")], np.cumsum(hit)[:-1])
    iou = np.array([math.fsum(values) for values in by_class])
    known = hit + false + missed > 0
    result = {key: np.full(num_classes, np.nan) for key in ("PQ", "SQ", "RQ")}
    weight = (hit + false / 2 + missed / 2)[known]
    result["PQ"][known] = iou[known] / weight
    result["SQ"][known] = iou[known] / np.maximum(hit[known], 1)
    result["RQ"][known] = hit[known] / weight
    return result


class PanopticMeasure(Measure):
    """Panoptic quality of `panoptic_seg` = (ids `[H, W]`, segments) in the outputs.

    Labels are `pan_seg_file_name` and `segments_info` of the records, with contiguous class indices (Detectron2's format).
    """

    name = "panoptic"
    task = "panoptic_seg"

    def __init__(self, dataset: EvaluatedDataset) -> None:
        super().__init__(dataset)
        self._parts: list[Counts] = []

    def of_image(self, image: EvaluatedImage) -> Counts:
        ids, segments = self._predicted(image.output)
        file_name = image.record.get("pan_seg_file_name")
        if file_name is None or "segments_info" not in image.record:
            raise UserError(
                f"'{self.dataset.name}' has no panoptic labels (pan_seg_file_name, segments_info); set TEST.PANOPTIC False"
            )
        labels = read_segment_map(file_name)
        if labels.shape != ids.shape:
            raise UserError(
                f"panoptic label '{file_name}' is {labels.shape}, its prediction {ids.shape} (height, width)"
            )
        check_segments(np.unique(labels).tolist(), image.record["segments_info"], file_name)
        return match_segments(ids, segments, labels, image.record["segments_info"])

    def _predicted(self, output: Mapping[str, Any]) -> tuple[np.ndarray, list[Segment]]:
        if "panoptic_seg" not in output:
            raise UserError("the model gives no panoptic segments (it predicts no masks); set TEST.PANOPTIC False")
        ids, segments = output["panoptic_seg"]
        if self.dataset.prompt_to_class is None:
            return ids.cpu().numpy().astype(np.int64), segments
        table = self.dataset.prompt_to_class.tolist()
        return ids.cpu().numpy().astype(np.int64), [{**s, "category_id": table[s["category_id"]]} for s in segments]

    def add(self, counts: Counts) -> None:
        self._parts.append(counts)

    def total(self) -> Counts:
        keys = {"tp": np.int64, "iou": np.float64, "fp": np.int64, "fn": np.int64}
        return {k: np.concatenate([np.empty(0, t), *(part[k] for part in self._parts)]) for k, t in keys.items()}

    def figures(self) -> dict[str, float]:
        per_class = quality(self.total(), self.dataset.num_classes)
        things = set(self.dataset.things)
        classes_of: dict[str, Sequence[int]] = {
            "all": range(self.dataset.num_classes),
            "things": self.dataset.things,
            "stuff": [c for c in range(self.dataset.num_classes) if c not in things],
            "seen": self.dataset.seen,
            "unseen": self.dataset.unseen,
        }
        means = {
            f"{key}{suffix}": values[list(classes_of[group])]
            for suffix, group in PANOPTIC_GROUPS.items()
            for key, values in per_class.items()
        }
        return {key: 100 * float(np.nanmean(values)) for key, values in means.items() if np.isfinite(values).any()}

    def record(self) -> dict[str, Any]:
        values = quality(self.total(), self.dataset.num_classes)
        return {"pq_per_class": 100 * values["PQ"], "thing_classes": self.dataset.things}
