"""Panoptic segments and instances of a case against ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal
from conformance.inputs import Size, as_stored
from twostage.errors import UserError
from twostage.predictions.masks import MaskPrediction
from twostage.predictions.segments import instances, panoptic_segments

_PANOPTIC = ("panoptic_seg", "panoptic_segments", "segments_info")
_INSTANCES = ("inst_scores", "inst_classes", "inst_areas", "instance_classes_of_sorted_scores")
# Scores that are closer than this share of the greatest may come in either order.
_TIE = 1e-5


def thing_classes(case: Case, num_classes: int) -> list[int]:
    """The case's thing classes. Cases list them, or say "even class indices", or are of a list whose things come first."""
    for field in ("thing_ids", "thing_class_indices", "thing_classes"):
        stated = case.meta.get(field)
        if isinstance(stated, list):
            return [int(index) for index in stated]
        if isinstance(stated, str):
            if stated.startswith("even"):
                return list(range(0, num_classes, 2))
            if stated.startswith("all"):
                return list(range(num_classes))
            raise UserError(f"case '{case.path}' tells its thing classes in unknown words: {stated!r}")
    # COCO panoptic: 80 things, then 53 stuff classes.
    return list(range(min(80, num_classes)))


def compare_segments(
    case: Case, prediction: MaskPrediction, size: Size, cfg: CfgNode, *, all_instances: bool = False
) -> list[Comparison]:
    """What a case holds of panoptic and instance output.

    Args:
        all_instances: stuff classes are instances, too, as where panoptic output is off.
    """
    rows: list[Comparison] = []
    things = thing_classes(case, prediction.num_classes)
    held = {*case.meta, *case.names}
    if held.intersection(_PANOPTIC):
        thresholds = {"score_threshold": cfg.TEST.PANOPTIC_SCORE, "overlap_threshold": cfg.TEST.PANOPTIC_OVERLAP}
        ((ids, segments),) = panoptic_segments(prediction, [size], things, **thresholds)
        rows += _compare_panoptic(case, ids, segments)
    if held.intersection(_INSTANCES):
        top_k = cfg.TEST.DETECTIONS_PER_IMAGE
        (found,) = instances(prediction, [size], None if all_instances else things, top_k=top_k)
        areas = found.pred_masks.flatten(1).sum(dim=1)
        rows += _compare_instances(case, found.scores, found.pred_classes, areas)
    return rows


def _compare_panoptic(case: Case, ids: Tensor, segments: list[dict[str, Any]]) -> list[Comparison]:
    rows = case.compare_all({"panoptic_seg": as_stored(case, "panoptic_seg", ids)})
    for field in ("panoptic_segments", "segments_info"):
        if field in case.meta:
            rows.append(compare_equal(field, _described(segments), _described(case.meta[field])))
    return rows


def _described(segments: list[dict[str, Any]]) -> list[tuple[int, int, bool]]:
    return [(int(s["id"]), int(s["category_id"]), bool(s["isthing"])) for s in segments]


def _compare_instances(case: Case, scores: Tensor, classes: Tensor, areas: Tensor) -> list[Comparison]:
    """Best first, whatever the order that the case holds them in; near ties by class and area."""
    stored = {
        "inst_scores": case.arrays.get("inst_scores", case.meta.get("inst_scores")),
        "inst_classes": case.arrays.get("inst_classes", case.meta.get("inst_classes")),
        "inst_areas": case.arrays.get("inst_areas", case.meta.get("inst_areas")),
    }
    if stored["inst_classes"] is None:
        stored["inst_classes"] = case.meta.get("instance_classes_of_sorted_scores")
    wanted = {name: np.asarray(value) for name, value in stored.items() if value is not None}
    ours = {"inst_scores": scores.numpy(), "inst_classes": classes.numpy(), "inst_areas": areas.numpy()}
    if any(len(value) != len(scores) for value in wanted.values()) or "inst_scores" not in wanted:
        return [compare_equal(f"number of {name}", len(ours[name]), len(value)) for name, value in wanted.items()]
    ours, wanted = _ordered(ours), _ordered(wanted)
    rows = []
    for name, value in wanted.items():
        held = Case(case.path, {}, {f"match_{name}" if name == "inst_classes" else name: value})
        whole = torch.from_numpy(np.ascontiguousarray(ours[name]))
        rows.append(held.compare(held.names[0], whole))
    return rows


def _ordered(instances: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By score, from the greatest; scores that are nearly equal by class, then area."""
    order = np.argsort(-instances["inst_scores"], kind="stable")
    scores = instances["inst_scores"][order]
    gaps = -np.diff(scores, prepend=scores[:1]) > _TIE * np.abs(scores).max(initial=0)
    others = [instances[name][order] for name in ("inst_areas", "inst_classes") if name in instances]
    final = order[np.lexsort((*others, np.cumsum(gaps)))]
    return {name: value[final] for name, value in instances.items()}
