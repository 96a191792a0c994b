"""Runs Mask2Former as a reference case says and compares what the case stores."""

from __future__ import annotations

import re
from typing import Any

import torch
from detectron2.config import CfgNode

from conformance.case import Case
from conformance.comparison import Comparison, compare_labels
from conformance.generator import GENERATOR_KEYS, recording_generator, resizing, switched_on
from conformance.inputs import as_stored, picture, size_of, striped_batch
from conformance.recording import Arrays
from conformance.rounding import published_rounding
from conformance.segments import compare_segments
from conformance.settings import Table, case_config, options, pairs, to
from conformance.training import check_training
from conformance.weights import seeded_model
from twostage.data.mapper import to_tensor
from twostage.errors import UserError
from twostage.systems.two_stage.mask2former.model import Mask2Former

SYSTEMS = ("Mask2Former", "mask2former")
# What the published config file's name says -> our config, for ADE20K and for COCO.
_CONFIGS = {
    "R50": ("mask2former_r50", "mask2former_r50_coco"),
    "R101": ("mask2former_r101", "mask2former_r101"),
    "swin_tiny": ("mask2former_swint", "mask2former_swint"),
    "swin_base": ("mask2former_swinb", "mask2former_swinb_coco"),
    "swin_large": ("mask2former_swinl", "mask2former_swinl"),
}
_KEYS: Table = {**GENERATOR_KEYS, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": to("MODEL.MASK2FORMER.NUM_CLASSES")}


@published_rounding()
def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a Mask2Former case with ours."""
    cfg = _config(case)
    model = seeded_model(cfg, case)
    if "losses_weighted" not in case.meta:
        return _check_inference(model.eval(), case, cfg)
    # No names enter the computation; there are as many as classes.
    names = [f"class {i}" for i in range(cfg.MODEL.MASK2FORMER.NUM_CLASSES)]
    return check_training(model.train(), case, cfg, striped_batch(case.meta, vocabulary=names))


def _settings(case: Case) -> dict[str, Any]:
    return pairs(case.meta.get("config_overrides"))


def _is_panoptic(case: Case) -> bool:
    """Whether the published config gives panoptic and instance output."""
    return "panoptic" in case.meta["config"] or "instance" in case.meta["config"]


def _config(case: Case) -> CfgNode:
    meta, panoptic = case.meta, _is_panoptic(case)
    names = next((ours for theirs, ours in _CONFIGS.items() if re.search(rf"_{theirs}_", meta["config"])), None)
    if names is None:
        raise UserError(f"no config of ours for the case's {meta['config']!r}")
    settings = _settings(case)
    if "num_classes" in meta:
        settings.setdefault("MODEL.SEM_SEG_HEAD.NUM_CLASSES", meta["num_classes"])
    return case_config(names[panoptic], [*resizing(settings, panoptic), *options(_KEYS, settings)])


@torch.no_grad()
def _check_inference(model: Mask2Former, case: Case, cfg: CfgNode) -> list[Comparison]:
    arrays: Arrays = {}
    image = to_tensor(picture(case.meta["image"]))
    size = size_of(case.meta["output_size"])
    # A closed list: names do not enter the computation.
    case.told("class_names")
    images = model.preprocess([{"image": image}])
    with recording_generator(model.generator, lambda queries: model.class_logits(queries, None), arrays):
        encoded = model.encode(images)
    prediction = model.decode(encoded, None)
    (scores,) = prediction.scores([size])
    (labels,) = prediction.label_maps([size])
    arrays |= {
        "pred_logits": prediction.class_logits,
        "pred_masks": prediction.mask_logits,
        "sem_seg": scores,
        "argmax": as_stored(case, "argmax", scores.argmax(dim=0)),
    }
    settings = _settings(case)
    panoptic = switched_on(settings, _is_panoptic(case), "PANOPTIC_ON")
    return [
        *case.compare_all(arrays),
        # The label map that evaluation uses must say the same as the full scores.
        compare_labels("label_map", labels, scores.argmax(dim=0)),
        *compare_segments(case, prediction, size, cfg, all_instances=not panoptic),
    ]
