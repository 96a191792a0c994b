"""Runs Mask2Former as a reference case says and hands out the same arrays that the case stores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from conformance.case import Case, Comparison, load_seeded
from conformance.generator import Arrays, check_training, recording_generator, striped_batch
from conformance.seeded import seeded_image
from twostage.config import load_config
from twostage.errors import UserError
from twostage.proposals.rounding import published_rounding
from twostage.systems.building import build_model
from twostage.systems.two_stage.mask2former.model import Mask2Former

# What the published config file's name says -> our config.
_CONFIGS = {
    "R50": "mask2former_r50",
    "R101": "mask2former_r101",
    "swin_tiny": "mask2former_swint",
    "swin_base": "mask2former_swinb",
    "swin_large": "mask2former_swinl",
}
# Published keys that cases override -> ours.
_KEYS = {
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": "MODEL.MASK2FORMER.NUM_CLASSES",
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": "MODEL.MASK2FORMER.NUM_QUERIES",
}


@published_rounding()
def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a Mask2Former case with ours."""
    cfg = _config(case.meta)
    model = build_model(cfg)
    load_seeded(model, model.checkpoint_table(), case.meta)
    if "losses_weighted" not in case.meta:
        return _check_inference(model.eval(), case)
    # No names enter the computation; there are as many as classes.
    batch = striped_batch(case.meta, vocabulary=[f"class {i}" for i in range(cfg.MODEL.MASK2FORMER.NUM_CLASSES)])
    return check_training(model.train(), case, cfg, batch, case.meta["trainable_lr_mult_and_weight_decay"])


def _config(meta: dict[str, Any]) -> CfgNode:
    name = next((ours for theirs, ours in _CONFIGS.items() if re.search(rf"_{theirs}_", meta["config"])), None)
    if name is None:
        raise UserError(f"no config of ours for the case's {meta['config']!r}")
    panoptic = "panoptic" in meta["config"] or "instance" in meta["config"]
    root = Path(__file__).parents[2]
    opts = ["MODEL.DEVICE", "cpu", "MODEL.MASK2FORMER.RESIZE_SCORES", str(not panoptic)]
    overrides = meta["config_overrides"]
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        if key not in _KEYS:
            raise UserError(f"the case overrides {key!r}, which has no key here")
        opts += [_KEYS[key], str(value)]
    if "num_classes" in meta:
        opts += ["MODEL.MASK2FORMER.NUM_CLASSES", str(meta["num_classes"])]
    return load_config(str(root / "configs" / f"{name}.yaml"), opts)


def _check_inference(model: Mask2Former, case: Case) -> list[Comparison]:
    meta = case.meta
    arrays: Arrays = {}
    entry = meta["image"]
    image = torch.as_tensor(seeded_image(entry["height"], entry["width"], entry["seed"]).transpose(2, 0, 1).copy())
    size = (int(meta["output_size"][0]), int(meta["output_size"][1]))
    with torch.no_grad():
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
        "argmax": scores.argmax(dim=0)[::4, ::4],
    }
    rows = [case.compare(name, arrays[name]) for name in case.names]
    # The label map that evaluation uses must say the same as the full scores.
    rows.append(case.compare_labels("label_map", labels, scores.argmax(dim=0)))
    return rows
