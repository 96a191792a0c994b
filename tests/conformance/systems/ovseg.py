"""Runs OVSeg as a reference case says and compares what the case stores."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal, compare_labels, compare_names, compare_number
from conformance.generator import LOSS_KEYS, SWIN_KEYS
from conformance.inputs import as_stored, masks_entry, picture, size_of, stored_masks
from conformance.optimizer import check_optimizer, official_names
from conformance.rounding import published_rounding
from conformance.settings import (
    Table,
    case_config,
    choice,
    clip_name,
    config_of,
    first_word,
    free,
    only,
    options,
    pairs,
    to,
)
from conformance.systems.ovseg_recording import recorded_inference, recorded_training
from conformance.systems.ovseg_units import UNITS
from conformance.training import check_loss_fields, loss_weights
from conformance.weights import seeded_model
from twostage.data.mapper import to_tensor
from twostage.errors import UserError
from twostage.predictions.prediction import UNLABELLED
from twostage.systems.two_stage.ovseg.model import OVSeg
from twostage.vocabulary import Vocabulary

SYSTEMS = ("OVSeg", "ovseg")
_CONFIGS = {
    "base": "ovseg_r101c_vitb",
    "large": "ovseg_swinb_vitl",
    "demo": "ovseg_demo",
    "ovseg_R101c_vitB_bs32_120k": "ovseg_r101c_vitb",
    "ovseg_swinB_vitL_bs32_120k": "ovseg_swinb_vitl",
    "ovseg_swinB_vitL_demo": "ovseg_demo",
}
_ADAPTER = "MODEL.CLIP_ADAPTER."
_KEYS: Table = {
    **SWIN_KEYS,
    **LOSS_KEYS,
    f"{_ADAPTER}CLIP_MODEL_NAME": to("MODEL.CLIP.NAME", convert=clip_name),
    f"{_ADAPTER}TEXT_TEMPLATES": to("MODEL.CLIP.TEMPLATES", convert=first_word),
    f"{_ADAPTER}MASK_THR": to("MODEL.OVSEG.MASK_THRESHOLD"),
    f"{_ADAPTER}CLIP_ENSEMBLE": to("MODEL.OVSEG.ENSEMBLE"),
    f"{_ADAPTER}CLIP_ENSEMBLE_WEIGHT": to("MODEL.OVSEG.ENSEMBLE_WEIGHT"),
    f"{_ADAPTER}MASK_FILL": choice("MODEL.OVSEG.BACKGROUND", {"mean": "mean", "zero": "zero"}),
    f"{_ADAPTER}MASK_EXPAND_RATIO": to("MODEL.OVSEG.EXPAND_RATIO"),
    f"{_ADAPTER}MASK_MATTING": to("MODEL.OVSEG.MATTING"),
    f"{_ADAPTER}MASK_PROMPT_DEPTH": to("MODEL.CLIP.MASK_PROMPT_DEPTH"),
    f"{_ADAPTER}MASK_PROMPT_FWD": to("MODEL.OVSEG.MASK_PROMPTS"),
    f"{_ADAPTER}REGION_RESIZED": only(True),
    f"{_ADAPTER}SEPARATE_ADAPTER": only(False),
    "MODEL.SEM_SEG_HEAD.EMBED_HIDDEN_DIM": to("MODEL.OVSEG.EMBED_HIDDEN"),
    "MODEL.SEM_SEG_HEAD.EMBED_LAYERS": only(2),
    # The width of CLIP's embeddings follows from its name, the classes from the vocabulary.
    "MODEL.SEM_SEG_HEAD.EMBEDDING_DIM": free,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": free,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": to("MODEL.MASKFORMER.WIDTH"),
    "MODEL.SEM_SEG_HEAD.MASK_DIM": to("MODEL.MASKFORMER.MASK_CHANNELS"),
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": to("MODEL.MASKFORMER.NUM_QUERIES"),
    "MODEL.MASK_FORMER.HIDDEN_DIM": to("MODEL.MASKFORMER.WIDTH"),
    "MODEL.MASK_FORMER.DEC_LAYERS": to("MODEL.MASKFORMER.LAYERS"),
    "MODEL.MASK_FORMER.NHEADS": to("MODEL.MASKFORMER.HEADS"),
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": to("MODEL.MASKFORMER.FEED_FORWARD"),
    "MODEL.MASK_FORMER.DROPOUT": to("MODEL.MASKFORMER.DROPOUT"),
    "MODEL.MASK_FORMER.ENC_LAYERS": only(0),
    "MODEL.MASK_FORMER.PRE_NORM": only(False),
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": to("MODEL.OVSEG.SIZE_DIVISIBILITY"),
}
_GRADIENT_TOLERANCE = 1e-3


@published_rounding()
def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of an OVSeg case with ours."""
    if "variant" not in case.meta:
        for word, unit in UNITS.items():
            if word in case.meta.get("case", case.path.stem):
                return unit(case)
        raise UserError(f"OVSeg case '{case.path}' is neither a run ('variant') nor a unit: {', '.join(UNITS)}")
    cfg = _config(case)
    model = seeded_model(cfg, case)
    if "losses_weighted" in case.meta:
        return _check_training(model.train(), case, cfg)
    return _check_inference(model.eval(), case)


def _config(case: Case) -> CfgNode:
    """Our config of a case: its variant, then what it says to change."""
    meta = case.meta
    values = {f"{_ADAPTER}{key}": value for key, value in meta.get("values", {}).items()}
    settings = pairs(values, meta.get("config_overrides"))
    return case_config(config_of(meta.get("config", meta["variant"]), _CONFIGS, case), options(_KEYS, settings))


def _check_inference(model: OVSeg, case: Case) -> list[Comparison]:
    meta = case.meta
    # The names that the run was given, of which it may have added to.
    case.told("classes", "dataset_name")
    names = meta["class_names_used"] if "class_names_used" in meta else meta["classes"]
    arrays = recorded_inference(model, to_tensor(picture(meta["image"])), names, size_of(meta["requested_output"]))
    labels, scores = arrays.pop("label_map"), arrays["sem_seg"]
    for name in ("argmax", "argmax_stride4"):
        arrays[name] = as_stored(case, name, scores.argmax(dim=0))
    rows = case.compare_all(arrays)
    if "num_valid_regions" in meta and "valid_flag" in arrays:
        rows.append(compare_equal("num_valid_regions", int(arrays["valid_flag"].sum()), meta["num_valid_regions"]))
    # The label map that evaluation uses must say the same as the full scores.
    wanted = scores.argmax(dim=0)
    if model.best_proposals_only:
        # The demo's label maps leave pixels of no word unlabelled; the authors' visualiser does that.
        asked = model.embed_vocabulary(Vocabulary.published(names)).asked
        wanted = torch.where((scores.amax(dim=0) > 0) & (wanted < asked), wanted, UNLABELLED)
    return [*rows, compare_labels("label_map", labels, wanted, tolerance=1e-3)]


def _check_training(model: OVSeg, case: Case, cfg: CfgNode) -> list[Comparison]:
    meta = case.meta
    case.told("targets", "randomness")
    losses, arrays = recorded_training(model, _training_batch(case))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    rows = case.compare_all(arrays) + check_loss_fields(case, losses, total, loss_weights(cfg), tolerance=1e-4)
    names = official_names(model, model.checkpoint_table())
    trainable = {names[name]: p for name, p in model.named_parameters() if p.requires_grad}
    norms = {name: 0.0 if p.grad is None else p.grad.norm().item() for name, p in trainable.items()}
    whole = torch.tensor(list(norms.values())).norm().item()
    if "global_grad_norm" in meta:
        rows.append(compare_number("global_grad_norm", whole, meta["global_grad_norm"], _GRADIENT_TOLERANCE))
    for name, wanted in meta.get("grad_norm_before_clipping", {}).items():
        rows.append(_compare_gradient(name, norms[name], wanted, whole))
    if "trainable_without_gradient" in meta:
        without = [name for name, p in trainable.items() if p.grad is None]
        rows.append(compare_names("without gradient", without, meta["trainable_without_gradient"]))
    return rows + check_optimizer(model, case, cfg)


def _compare_gradient(name: str, ours: float, wanted: float, whole: float) -> Comparison:
    """A gradient norm; one that is float noise beside the whole gradient only has to be noise here too."""
    difference = abs(ours - wanted)
    relative = difference / max(wanted, 1e-6 * whole)
    return Comparison(
        name=f"grad_norm {name}",
        difference=difference,
        relative=relative,
        passed=relative <= _GRADIENT_TOLERANCE or max(ours, wanted) < 1e-7 * whole,
    )


def _training_batch(case: Case) -> list[dict[str, Any]]:
    entry = case.meta["image"]
    size = size_of(entry)
    batch = []
    for index, seed in enumerate(entry["seeds"]):
        pixels = picture({"hw": size, "seed": seed})
        classes, masks = stored_masks(case, index, size)
        batch.append(masks_entry(pixels, classes, masks, vocabulary=case.meta["classes"]))
    return batch
