"""Runs ERR-Seg as a reference case says and compares what the case stores."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

from conformance.case import Case
from conformance.comparison import Comparison, compare_labels
from conformance.inputs import as_stored, picture
from conformance.settings import Table, case_config, config_of, free, only, options, pairs, square, to
from conformance.systems.errseg_recording import aggregator_arrays, logit_arrays, model_arrays, recording_model
from conformance.systems.errseg_training import check_training
from conformance.systems.errseg_units import check_decoder, check_selection
from conformance.weights import seeded_model
from twostage.data.mapper import to_tensor
from twostage.systems.one_stage.errseg.model import ERRSeg
from twostage.vocabulary import Vocabulary

SYSTEMS = ("ERR-Seg", "errseg")
_CONFIGS = {"convnextB_640": "errseg_convnextb", "convnextL_640": "errseg_convnextl"}
_HEAD = "MODEL.SEM_SEG_HEAD."
_KEYS: Table = {
    f"{_HEAD}SAMPLE_CLASSES_NUM": to("MODEL.ERRSEG.SLOTS", "MODEL.ERRSEG.TEST_SLOTS"),
    f"{_HEAD}CLIP_FINETUNE": only("weight"),
    # They follow from CLIP, and from the vocabulary.
    f"{_HEAD}CLIP_PRETRAINED": free,
    f"{_HEAD}NUM_CLASSES": free,
    f"{_HEAD}TRAIN_CLASS_JSON": free,
    f"{_HEAD}TEST_CLASS_JSON": free,
    "INPUT.CROP.SIZE": to("MODEL.ERRSEG.RESOLUTION", "MODEL.ERRSEG.TEST_RESOLUTION", convert=square),
    "INPUT.SIZE_DIVISIBILITY": to("MODEL.ERRSEG.SIZE_DIVISIBILITY"),
}
# The cases train without anything random.
_STILL = {f"MODEL.ERRSEG.{key}": 0.0 for key in ("DROP_PATH", "CLIP_DROP_PATH", "CLIP_DROPOUT")}


def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of an ERR-Seg case with ours."""
    case.told(
        "eval_mode", "selection", "selection_rules_fixed_here", "selection_robustness", "order_test", "dataset_name"
    )
    case.told("image_seeds_tried", "num_classes", "text_encoding_against_77_tokens_relative")
    if "subcases" in case.meta:
        return check_selection(case)
    cfg = _config(case)
    if "inputs" in case.meta:
        return check_decoder(case, cfg)
    model = seeded_model(cfg, case)
    if "losses" in case.meta:
        return check_training(model.train(), case, cfg)
    return _check_inference(model.eval(), case)


def _config(case: Case) -> CfgNode:
    meta = case.meta
    settings = pairs(*(meta.get(field) for field in ("config", "overrides", "config_overrides")))
    if "slots" in meta:
        settings[f"{_HEAD}SAMPLE_CLASSES_NUM"] = meta["slots"]
    variant = {"B": "convnextB_640", "L": "convnextL_640"}[meta.get("variant", "B")]
    still = [str(part) for pair in _STILL.items() for part in pair]
    return case_config(
        config_of(meta.get("config_file", f"{variant}.yaml"), _CONFIGS, case), [*options(_KEYS, settings), *still]
    )


def _check_inference(model: ERRSeg, case: Case) -> list[Comparison]:
    entry = case.meta["image"]
    size = (entry["output_height"], entry["output_width"])
    with torch.inference_mode():
        text = model.text(Vocabulary.published(case.meta["class_names"]))
        with recording_model(model) as recorded:
            batch = [{"image": to_tensor(picture(entry)), "height": size[0], "width": size[1]}]
            encoded = model.encode(model.preprocess(batch))
            prediction = model.decode(encoded, text)
        kept = prediction.kept if prediction.kept is not None else torch.arange(len(text))[None]
        arrays = model_arrays(model, encoded, text, kept) | aggregator_arrays(recorded)
        arrays |= logit_arrays(recorded["head"], kept, len(text))
        scores = prediction.scores([size])[0]
        labels = prediction.label_maps([size])[0]
    arrays["sem_seg"] = scores
    for name in ("argmax", "argmax_sub4"):
        arrays[name] = as_stored(case, name, scores.argmax(dim=0))
    # The label map that evaluation uses must say the same as the full scores.
    return [*case.compare_all(arrays), compare_labels("label_map", labels, scores.argmax(dim=0))]
