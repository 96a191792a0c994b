"""Runs Mask-Adapter as a reference case says and compares what the case stores."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal, compare_labels
from conformance.generator import resizing, switched_on
from conformance.inputs import as_stored, picture, size_of
from conformance.recording import Arrays
from conformance.rounding import published_rounding
from conformance.segments import compare_segments
from conformance.settings import Table, case_config, clip_name, only, options, pairs, to
from conformance.systems.maftp import KEYS as MAFTP_KEYS
from conformance.systems.mask_adapter_recording import encoded_arrays, recording_adapter
from conformance.systems.mask_adapter_training import check_training
from conformance.systems.mask_adapter_units import check_head
from conformance.trained import compare_trained, embed_classes
from conformance.weights import seeded_model
from twostage.data.mapper import to_tensor
from twostage.systems.two_stage.mask_adapter.model import MaskAdapter

SYSTEMS = ("Mask-Adapter", "Mask-Adapter head", "maskadapter")
_ADAPTER = "MODEL.MASK_ADAPTER."
_TEST = "MODEL.MASK_FORMER.TEST."
_KEYS: Table = {
    **MAFTP_KEYS,
    "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA": to("MODEL.FCCLIP.SEEN_WEIGHT"),
    "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA": to("MODEL.FCCLIP.UNSEEN_WEIGHT"),
    "MODEL.FC_CLIP.ENSEMBLE_ON_VALID_MASK": only(False),
    f"{_ADAPTER}NAME": only("MASKAdapterHead"),
    f"{_ADAPTER}NUM_CHANNELS": to(f"{_ADAPTER}WIDTH"),
    f"{_ADAPTER}MASK_IN_CHANNELS": to(f"{_ADAPTER}MASK_CHANNELS"),
    f"{_ADAPTER}NUM_OUTPUT_MAPS": to(f"{_ADAPTER}MAPS"),
    f"{_ADAPTER}MASK_THRESHOLD": to(f"{_ADAPTER}MASK_THRESHOLD"),
    f"{_ADAPTER}IOU_THRESHOLD": to(f"{_ADAPTER}PAIR_IOU"),
    # The published slices of a batch are fixed: 16 and 8, 32 in the warm-up.
    f"{_ADAPTER}NUM_GT_MASKS": to(f"{_ADAPTER}TRUTHS"),
    f"{_ADAPTER}NUM_PRED_MASKS": to(f"{_ADAPTER}PAIRS"),
}
# What a case says beside its overrides.
_FIELDS = {
    "alpha": "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA",
    "beta": "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA",
    "mask_threshold": f"{_ADAPTER}MASK_THRESHOLD",
    "iou_threshold": f"{_ADAPTER}IOU_THRESHOLD",
    "num_output_maps": f"{_ADAPTER}NUM_OUTPUT_MAPS",
    "num_queries": "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES",
    "object_mask_threshold": f"{_TEST}OBJECT_MASK_THRESHOLD",
    "overlap_threshold": f"{_TEST}OVERLAP_THRESHOLD",
    "panoptic_on": f"{_TEST}PANOPTIC_ON",
    "instance_on": f"{_TEST}INSTANCE_ON",
    "topk_per_image": "TEST.DETECTIONS_PER_IMAGE",
}


@published_rounding()
def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a Mask-Adapter case with ours."""
    meta = case.meta
    case.told("threads", "two_threads_max_rel_diff", "base_system", "phase", "gradients")
    case.told("nearest_mask_probability_to_threshold", "nearest_iou_to_threshold")
    case.told("grad_norm_two_threads_max_rel_diff")
    if "dense" in meta and "masks" in meta:
        return check_head(case)
    settings = _settings(case)
    cfg = _config(case, settings)
    model = seeded_model(cfg, case)
    if "losses_weighted" in meta:
        return check_training(model.train(), case, cfg)
    return _check_inference(model.eval(), case, cfg, settings)


def _settings(case: Case) -> dict[str, Any]:
    """Official key -> value, from the case's fields and its overrides."""
    fields = {key: case.meta[field] for field, key in _FIELDS.items() if case.meta.get(field) is not None}
    return pairs(fields, case.meta.get("config_overrides"))


def _config(case: Case, settings: dict[str, Any]) -> CfgNode:
    meta = case.meta
    base = "maftp" if meta["base_system"].lower().startswith("maft") else "fcclip"
    warmup = "warmup" in meta["config"]
    clip = clip_name(meta["clip_model"])
    size = {"convnext_base_w_320": "b", "convnext_large_d_320": "l"}[clip]
    config = f"mask_adapter_{'warmup_' if warmup else ''}{base}_convnext{size}"
    opts = ["MODEL.CLIP.NAME", clip, *resizing(settings, default=False)]
    if meta.get("panoptic_transfer") is not None:
        opts += ["MODEL.MAFTP.TRANSFER", "panoptic" if meta["panoptic_transfer"] else "semantic"]
    # All masks at once, so that what is kept of a pass is whole; that chunks change nothing is a test of its own.
    return case_config(config, [*opts, *options(_KEYS, settings), "MODEL.MASK_ADAPTER.QUERY_CHUNK", "100000"])


@torch.no_grad()
def _check_inference(model: MaskAdapter, case: Case, cfg: CfgNode, settings: dict[str, Any]) -> list[Comparison]:
    meta, arrays = case.meta, Arrays()
    size = size_of(meta["output_size"])
    words = embed_classes(model, case)
    with recording_adapter(model, arrays):
        encoded = model.encode(model.preprocess([{"image": to_tensor(picture(meta["image"]))}]))
        prediction = model.decode(encoded, words)
    (scores,) = prediction.scores([size])
    (labels,) = prediction.label_maps([size])
    mask_logits, embeddings = encoded.outputs[0]
    arrays |= encoded_arrays(model, encoded, words, model.void_embedding)
    arrays |= {
        "pred_logits": model.class_logits(embeddings, words, model.logit_scale),
        "pred_masks": mask_logits,
        "text_classifier": words.names,
        "category_overlapping_mask": words.seen.long(),
        "out_vocab_logits": model.region_logits(encoded, words),
        "mask_cls_final": prediction.class_logits[0],
        "sem_seg": scores,
        "argmax": as_stored(case, "argmax", scores.argmax(dim=0)),
    }
    return [
        *case.compare_all(arrays),
        *compare_trained(case, words.seen),
        compare_equal("names per class", words.classes.bincount().tolist(), meta["num_templates"]),
        compare_labels("label_map", labels, scores.argmax(dim=0)),
        *compare_segments(
            case,
            prediction,
            size,
            cfg,
            all_instances=not switched_on(settings, False, "PANOPTIC_ON"),
        ),
    ]
