"""Runs OVSeg as a reference case says and compares the arrays and figures that the case stores."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor

from conformance.case import Case, Comparison, compare_sets
from conformance.ovseg_recording import recorded_inference, recorded_training
from conformance.ovseg_units import UNITS
from conformance.seeded import seeded_image, seeded_state
from twostage.checkpoint.renaming import check_complete
from twostage.config import load_config
from twostage.engine.optimizer import parameter_settings
from twostage.errors import UserError
from twostage.predictions.masks import UNLABELLED
from twostage.proposals.rounding import published_rounding
from twostage.systems.building import build_model
from twostage.systems.two_stage.ovseg.model import OVSeg
from twostage.vocabulary import Vocabulary

_CONFIGS = {
    "base": "configs/ovseg_r101c_vitb.yaml",
    "large": "configs/ovseg_swinb_vitl.yaml",
    "demo": "configs/ovseg_demo.yaml",
}
# The authors' config keys -> ours.
_KEYS = {
    "MODEL.CLIP_ADAPTER.MASK_THR": "MODEL.OVSEG.MASK_THRESHOLD",
    "MODEL.CLIP_ADAPTER.CLIP_ENSEMBLE": "MODEL.OVSEG.ENSEMBLE",
    "MODEL.CLIP_ADAPTER.CLIP_ENSEMBLE_WEIGHT": "MODEL.OVSEG.ENSEMBLE_WEIGHT",
    "MODEL.CLIP_ADAPTER.MASK_FILL": "MODEL.OVSEG.BACKGROUND",
    "MODEL.CLIP_ADAPTER.MASK_EXPAND_RATIO": "MODEL.OVSEG.EXPAND_RATIO",
    "MODEL.CLIP_ADAPTER.MASK_MATTING": "MODEL.OVSEG.MATTING",
    "MODEL.CLIP_ADAPTER.MASK_PROMPT_DEPTH": "MODEL.CLIP.MASK_PROMPT_DEPTH",
    "MODEL.CLIP_ADAPTER.MASK_PROMPT_FWD": "MODEL.OVSEG.MASK_PROMPTS",
    "MODEL.CLIP_ADAPTER.TEXT_TEMPLATES": "MODEL.CLIP.TEMPLATES",
    "MODEL.CLIP_ADAPTER.CLIP_MODEL_NAME": "MODEL.CLIP.NAME",
    "MODEL.MASK_FORMER.DROPOUT": "MODEL.MASKFORMER.DROPOUT",
    "MODEL.SWIN.DROP_PATH_RATE": "MODEL.SWIN.DROP_PATH_RATE",
    # The number of classes follows from the vocabulary.
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": None,
}
_GRADIENT_TOLERANCE = 1e-3


@published_rounding()
def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of an OVSeg case with ours."""
    if "variant" not in case.meta:
        for word, unit in UNITS.items():
            if word in case.meta.get("case", ""):
                return unit(case)
        raise UserError(f"OVSeg case '{case.path}' is neither a run ('variant') nor a unit: {', '.join(UNITS)}")
    cfg = _config(case.meta)
    model = build_model(cfg)
    _load_seeded(model, case)
    if "losses_weighted" in case.meta:
        return _check_training(model.train(), case, cfg)
    return _check_inference(model.eval(), case)


def _config(meta: Mapping[str, Any]) -> CfgNode:
    """Our config of a case: its variant, then what it says to change."""
    root = Path(__file__).parents[2]
    changes = {f"MODEL.CLIP_ADAPTER.{key}": value for key, value in meta.get("values", {}).items()}
    pairs = meta.get("config_overrides", [])
    changes |= dict(zip(pairs[::2], pairs[1::2], strict=True))
    # Every tensor comes from the seed, so no pretrained weights are read.
    options = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", ""]
    for key, value in changes.items():
        if key not in _KEYS:
            raise UserError(f"OVSeg case changes '{key}', which is not known here; known: {', '.join(_KEYS)}")
        ours = _KEYS[key]
        if ours is not None:
            options += [ours, str(value).replace("/", "-")]
    return load_config(str(root / _CONFIGS[meta["variant"]]), options)


def _load_seeded(model: OVSeg, case: Case) -> None:
    """Seeded weights with the case's tweaks, through the table that official checkpoints use."""
    table = model.checkpoint_table()
    official = seeded_state(table.to_official(model.state_dict()), seed=case.meta["weight_seed"])
    for names, what in case.meta.get("weight_tweaks", {}).items():
        for name in names.split(" and "):
            if name in official:
                official[name] = tweaked(official[name], what, case.arrays.get(f"tweak__{name}"))
    ours = table.to_ours(official, source="seeded weights")
    check_complete(ours, model.state_dict(), fresh=table.fresh, source="seeded weights", model="OVSeg")
    model.load_state_dict(ours, strict=False)


def tweaked(tensor: Tensor, what: str, stored: np.ndarray | None) -> Tensor:
    """A seeded tensor after a change described in words.

    >>> tweaked(torch.tensor([1.0, 2.0]), "entry [0] set to -5.3", None)
    tensor([-5.3000,  2.0000])
    """
    if factor := re.fullmatch(r"seeded tensor times (\S+)", what):
        return tensor * float(factor[1])
    if entry := re.fullmatch(r"(?:row|entry) \[(\d+)\] set to (\S+)", what):
        tensor = tensor.clone()
        tensor[int(entry[1])] = float(entry[2])
        return tensor
    if what.startswith("replaced by the vectors stored") and stored is not None:
        return torch.from_numpy(stored)
    raise UserError(f"reference case changes weights in an unknown way: {what!r}")


def _check_inference(model: OVSeg, case: Case) -> list[Comparison]:
    meta = case.meta
    entry = meta["image"]
    image = seeded_image(entry["height"], entry["width"], entry["seed"])
    tensor = torch.as_tensor(image.transpose(2, 0, 1).copy())
    size = (meta["requested_output"]["height"], meta["requested_output"]["width"])
    arrays = recorded_inference(model, tensor, meta["class_names_used"], size)
    labels = arrays.pop("label_map")
    rows = [case.compare(name, arrays[name]) for name in case.names if not name.startswith("tweak")]
    # The label map that evaluation uses must say the same as the full scores.
    wanted = arrays["sem_seg"].argmax(dim=0)
    if model.best_proposals_only:
        # The demo's label maps leave pixels of no word unlabelled; the authors' visualiser does that.
        asked = model.embed_vocabulary(Vocabulary.published(meta["class_names_used"])).asked
        wanted = torch.where((arrays["sem_seg"].amax(dim=0) > 0) & (wanted < asked), wanted, UNLABELLED)
    off = float((labels != wanted).float().mean())
    rows.append(
        Comparison(name="label_map", shape=tuple(labels.shape), difference=off, relative=off, passed=off <= 1e-3)
    )
    return rows


def _check_training(model: OVSeg, case: Case, cfg: CfgNode) -> list[Comparison]:
    meta = case.meta
    losses, arrays = recorded_training(model, _training_batch(case))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    rows = [case.compare(name, arrays[name]) for name in case.names if not name.startswith("target")]
    for name, wanted in meta["losses_weighted"].items():
        rows.append(case.compare_number(name, losses[name].item(), wanted, tolerance=1e-4))
    rows.append(case.compare_number("total", total.item(), meta["total"], tolerance=1e-4))
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    norms = {name: 0.0 if p.grad is None else p.grad.norm().item() for name, p in trainable.items()}
    global_norm = float(np.linalg.norm(list(norms.values())))
    rows.append(case.compare_number("global_grad_norm", global_norm, meta["global_grad_norm"], _GRADIENT_TOLERANCE))
    official = _official_names(model)
    ours = {official[name]: norm for name, norm in norms.items()}
    for name, wanted in meta["grad_norm_before_clipping"].items():
        rows.append(_compare_gradient(name, ours[name], wanted, global_norm))
    without = {official[name]: True for name, p in trainable.items() if p.grad is None}
    rows.append(compare_sets("without gradient", without, dict.fromkeys(meta["trainable_without_gradient"], True)))
    return rows + _check_optimizer(model, case, cfg, official)


def _compare_gradient(name: str, ours: float, wanted: float, global_norm: float) -> Comparison:
    """A gradient norm; one that is float noise beside the whole gradient only has to be noise here too."""
    difference = abs(ours - wanted)
    relative = difference / max(wanted, 1e-6 * global_norm)
    return Comparison(
        name=f"grad_norm {name}",
        shape=(),
        difference=difference,
        relative=relative,
        passed=relative <= _GRADIENT_TOLERANCE or max(ours, wanted) < 1e-7 * global_norm,
    )


def _training_batch(case: Case) -> list[dict[str, Any]]:
    entry = case.meta["image"]
    height, width = entry["height"], entry["width"]
    batch = []
    for index, seed in enumerate(entry["seeds"]):
        classes = torch.from_numpy(case.arrays[f"target{index}_labels"])
        packed = np.unpackbits(case.arrays[f"target{index}_masks_packed"], axis=1)[:, : height * width]
        instances = Instances((height, width))
        instances.gt_classes = classes
        instances.gt_masks = torch.from_numpy(packed.reshape(-1, height, width)).bool()
        image = torch.as_tensor(seeded_image(height, width, seed).transpose(2, 0, 1).copy())
        batch.append({"image": image, "vocabulary": case.meta["classes"], "instances": instances})
    return batch


def _official_names(model: OVSeg) -> dict[str, str]:
    """Our parameter names -> official ones; the table renames dictionaries, so one entry at a time tells which is which."""
    table = model.checkpoint_table()
    nothing = torch.zeros(())
    return {name: next(iter(table.to_official({name: nothing}))) for name, _ in model.named_parameters()}


def _check_optimizer(model: OVSeg, case: Case, cfg: CfgNode, official: Mapping[str, str]) -> list[Comparison]:
    """Trainable parameters with learning-rate multiplier and weight decay, under official names.

    The list is a file beside the case; without it there is nothing to compare with.
    """
    path = case.path.parent / case.meta["trainable_list"]
    if not path.is_file():
        return []
    stored = json.loads(path.read_text(encoding="utf-8"))
    wanted = {name: (e["lr_multiplier"], e["weight_decay"]) for name, e in stored["trainable"].items()}
    settings = parameter_settings(cfg, model)
    ours = {official[n]: (round(s.lr / cfg.SOLVER.BASE_LR, 6), s.weight_decay) for n, s in settings.items()}
    rows = [compare_sets("trainable parameters", ours, wanted)]
    rows.append(case.compare_number("base_lr", cfg.SOLVER.BASE_LR, stored["base_lr"]))
    return rows
