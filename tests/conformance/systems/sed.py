"""Runs SED as a reference case says and compares what the case stores."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_labels, compare_number
from conformance.formulas import evaluate, found
from conformance.inputs import as_stored, picture
from conformance.optimizer import check_gradients, check_optimizer
from conformance.recording import Arrays
from conformance.rounding import published_rounding
from conformance.settings import Table, case_config, choice, config_of, free, only, options, pairs, square, to
from conformance.systems.sed_decoder import check_decoder
from conformance.systems.sed_recording import model_arrays, recording_model
from conformance.weights import seeded_model
from twostage.data.mapper import to_tensor
from twostage.systems.one_stage.sed.model import SED
from twostage.vocabulary import Vocabulary

SYSTEMS = ("SED", "sed")
_CONFIGS = {"convnextB_768": "sed_convnextb", "convnextL_768": "sed_convnextl"}
_HEAD = "MODEL.SEM_SEG_HEAD."
_KEYS: Table = {
    f"{_HEAD}KERNEL_SIZE": to("MODEL.SED.KERNEL_SIZES"),
    f"{_HEAD}DECODER_DIMS": to("MODEL.SED.DECODER_CHANNELS"),
    f"{_HEAD}DECODER_GUIDANCE_PROJ_DIMS": to("MODEL.SED.GUIDANCE_CHANNELS"),
    f"{_HEAD}DECODER_CLIP_GUIDANCE_PROJ_DIMS": to("MODEL.SED.GUIDANCE_CHANNELS"),
    f"{_HEAD}HIDDEN_DIMS": to("MODEL.SED.HIDDEN_CHANNELS", convert=square),
    f"{_HEAD}NUM_HEADS": to("MODEL.SED.CLASS_HEADS"),
    f"{_HEAD}POOLING_SIZES": to("MODEL.SED.TRAIN_POOLING", "MODEL.SED.TEST_POOLING", convert=square),
    f"{_HEAD}ATTENTION_TYPE": only("linear"),
    f"{_HEAD}CLIP_FINETUNE": choice("MODEL.CLIP.FINETUNE", {"full": "visual", "none": "none"}),
    # They follow from CLIP, and from the vocabulary.
    f"{_HEAD}CLIP_PRETRAINED": free,
    f"{_HEAD}DECODER_GUIDANCE_DIMS": free,
    f"{_HEAD}DECODER_CLIP_GUIDANCE_DIMS": free,
    f"{_HEAD}NUM_CLASSES": free,
    f"{_HEAD}TRAIN_CLASS_JSON": free,
    f"{_HEAD}TEST_CLASS_JSON": free,
    "MODEL.PROMPT_ENSEMBLE_TYPE": only("imagenet"),
    "templates": only("ImageNet 80"),
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": to("MODEL.SED.SIZE_DIVISIBILITY"),
    "TEST.FAST_INFERENCE": to("TEST.EARLY_REJECTION.ENABLED"),
    "TEST.TOPK": to("TEST.EARLY_REJECTION.TOP_K"),
    # The published inference never slides, whatever the key says.
    "TEST.SLIDING_WINDOW": free,
    "clip_resolution": to("MODEL.SED.RESOLUTION", convert=square),
}
# What the published config files say where a case does not: ours are set up as the published tables were made.
_DEFAULTS = {f"{_HEAD}POOLING_SIZES": [2, 2]}
# Gradients that are nearly zero are compared by their difference: their relative error is rounding.
_TINY_GRADIENT = 1e-5


@published_rounding()
def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a SED case with ours."""
    cfg = _config(case)
    if "inputs" in case.meta:
        return check_decoder(case, cfg)
    model = seeded_model(cfg, case)
    if "losses" in case.meta:
        return _check_training(model.train(), case, cfg)
    return _check_inference(model.eval(), case)


def _config(case: Case) -> CfgNode:
    meta = case.meta
    settings = _DEFAULTS | {
        key if "." in key else _short(key): value for key, value in pairs(meta.get("config")).items()
    }
    if told := re.search(r"pooling \[(\d+), ?(\d+)\]", meta.get("what", "")):
        settings[f"{_HEAD}POOLING_SIZES"] = [int(told[1]), int(told[2])]
    settings |= pairs(*(meta.get(field) for field in ("overrides", "config_overrides")))
    if "templates" in meta:
        settings["templates"] = meta["templates"]
    case.told("dataset_name", "eval_mode")
    return case_config(
        config_of(meta.get("config_file", "convnextB_768.yaml"), _CONFIGS, case), options(_KEYS, settings)
    )


def _short(key: str) -> str:
    """Cases name one key of the head without its path."""
    return f"{_HEAD}{key}" if key == "CLIP_FINETUNE" else key


def _check_inference(model: SED, case: Case) -> list[Comparison]:
    entry = case.meta["image"]
    pixels = picture(entry)
    if changed := re.search(r"img = ([^;]+?) in uint8", entry.get("fed", "")):
        pixels = np.asarray(evaluate(changed[1], img=pixels), np.uint8)
    size = (entry["output_height"], entry["output_width"])
    with torch.inference_mode():
        text = model.text(Vocabulary.published(case.meta["class_names"]))
        with recording_model(model) as recorded:
            encoded = model.encode(
                model.preprocess([{"image": to_tensor(pixels), "height": size[0], "width": size[1]}])
            )
            prediction = model.decode(encoded, text)
        arrays = model_arrays(model, encoded.features, text, recorded)
        if model.early_rejection is None:
            x = [arrays["cost_embed"], arrays["dec1_out"], arrays["dec2_out"]]
            arrays |= {f"aux_head{i}": model.decoder.heads[i](x[i]) for i in range(3)}
        scores = prediction.scores([size])[0]
        labels = prediction.label_maps([size])[0]
    arrays["selected_final"] = prediction.kept[0] if prediction.kept is not None else torch.arange(len(text))
    arrays["sem_seg"] = scores
    for name in ("argmax", "argmax_sub4"):
        arrays[name] = as_stored(case, name, scores.argmax(dim=0))
    # The label map that evaluation uses must say the same as the full scores.
    return [*case.compare_all(arrays), compare_labels("label_map", labels, scores.argmax(dim=0))]


def _check_training(model: SED, case: Case, cfg: CfgNode) -> list[Comparison]:
    meta, entry = case.meta, case.meta["images"]
    labels = _labels(meta)
    batch = []
    for index, seed in enumerate(entry["seeds"]):
        image = to_tensor(picture({"height": entry["height"], "width": entry["width"], "seed": seed}))
        batch.append({"image": image, "sem_seg": labels[index]})
    text = model.text(Vocabulary.published(meta["class_names"]))
    with recording_model(model) as recorded:
        images = model.preprocess(batch)
        encoded = model.encode(images)
        losses = model.losses(encoded, text, batch, images)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    with torch.no_grad():
        arrays: Arrays = model_arrays(model, encoded.features, text, recorded) | {"gt": labels}
    rows = case.compare_all(arrays)
    # Official order: the final head first, then the early ones.
    for (name, wanted), ours in zip(meta["losses"].items(), losses.values(), strict=True):
        rows.append(compare_number(name, ours.item(), wanted))
        if name in meta.get("loss_weights", {}):
            rows.append(compare_number(f"weight of {name}", 1.0, meta["loss_weights"][name]))
    if "total" in meta:
        rows.append(compare_number("total", total.item(), meta["total"]))
    case.told("mode", "loss_meaning")
    rows += check_gradients(
        model,
        case,
        norms=meta.get("gradient_norms", {}),
        total="total_grad_norm",
        without="trainable_without_grad",
        tiny=_TINY_GRADIENT,
    )
    return rows + check_optimizer(model, case, cfg)


def _labels(meta: Any) -> Tensor:
    """Label maps int64 `[B, H, W]` from the case's formula:
    "class at (y,x) of image b = (7*(y//32) + 3*(x//32) + b) mod 11, where 10 becomes 255 (ignored)".
    """
    text, entry = meta["gt"], meta["images"]
    formula = found(r"of image b = (.+?)(?:, where|;|$)", text, "the ground truth")[1]
    image, y, x = np.ogrid[: len(entry["seeds"]), : entry["height"], : entry["width"]]
    labels = evaluate(formula, x=x, y=y, b=image)
    for hole, value in re.findall(r"(\d+) becomes (\d+)", text):
        labels = np.where(labels == int(hole), int(value), labels)
    return torch.as_tensor(labels, dtype=torch.int64)
