"""Runs CAT-Seg as a reference case says and compares what the case stores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal, compare_sets
from conformance.inputs import picture, shortest_edge
from conformance.settings import (
    Table,
    case_config,
    choice,
    clip_name,
    config_of,
    free,
    only,
    options,
    pairs,
    square,
    to,
)
from conformance.systems.catseg_recording import Recording
from conformance.systems.catseg_training import check_counts, check_training
from conformance.weights import seeded_model
from twostage.clip.templates import TEMPLATES
from twostage.data.mapper import to_tensor
from twostage.systems.building import build_model
from twostage.systems.one_stage.catseg.model import CATSeg
from twostage.systems.one_stage.catseg.views import ClassScores
from twostage.systems.one_stage.cost_aggregation.kept_classes import REJECTED
from twostage.vocabulary import Vocabulary

SYSTEMS = ("CAT-Seg", "catseg")
_CONFIGS = {
    "vitb_384": "catseg_vitb",
    "vitl_336": "catseg_vitl",
    "vitb_r101_384": "catseg_v1_vitb_r101",
    "vitl_swinb_384": "catseg_v1_vitl_swinb",
}
_HEAD = "MODEL.SEM_SEG_HEAD."
_KEYS: Table = {
    f"{_HEAD}CLIP_PRETRAINED": to("MODEL.CLIP.NAME", convert=clip_name),
    "MODEL.PROMPT_ENSEMBLE_TYPE": choice("MODEL.CLIP.TEMPLATES", {"single": "scene", "imagenet": "imagenet"}),
    f"{_HEAD}POOLING_SIZES": to("MODEL.CATSEG.POOLING", "MODEL.CATSEG.TEST_POOLING", convert=square),
    f"{_HEAD}NUM_LAYERS": to("MODEL.CATSEG.LAYERS"),
    f"{_HEAD}NUM_HEADS": to("MODEL.CATSEG.HEADS"),
    f"{_HEAD}HIDDEN_DIMS": to("MODEL.CATSEG.CHANNELS", convert=square),
    f"{_HEAD}WINDOW_SIZES": to("MODEL.CATSEG.WINDOW", convert=square),
    f"{_HEAD}PAD_LEN": to("MODEL.CATSEG.CLASS_SLOTS"),
    f"{_HEAD}APPEARANCE_GUIDANCE_PROJ_DIM": to("MODEL.CATSEG.GUIDANCE_CHANNELS"),
    f"{_HEAD}TEXT_GUIDANCE_PROJ_DIM": to("MODEL.CATSEG.GUIDANCE_CHANNELS"),
    f"{_HEAD}DECODER_DIMS": to("MODEL.CATSEG.DECODER_CHANNELS"),
    f"{_HEAD}DECODER_GUIDANCE_DIMS": to("MODEL.CATSEG.TAP_CHANNELS"),
    f"{_HEAD}DECODER_GUIDANCE_PROJ_DIMS": to("MODEL.CATSEG.DECODER_GUIDANCE_CHANNELS"),
    f"{_HEAD}FEATURE_RESOLUTION": only([24, 24]),
    f"{_HEAD}ATTENTION_TYPE": only("linear"),
    # They follow from CLIP, and from the vocabulary.
    f"{_HEAD}APPEARANCE_GUIDANCE_DIM": free,
    f"{_HEAD}TEXT_GUIDANCE_DIM": free,
    f"{_HEAD}NUM_CLASSES": free,
    f"{_HEAD}TRAIN_CLASS_JSON": free,
    f"{_HEAD}TEST_CLASS_JSON": free,
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": to("MODEL.CATSEG.SIZE_DIVISIBILITY"),
    "TEST.SLIDING_WINDOW": to("TEST.SLIDING.ENABLED"),
    "MODEL.PIXEL_MEAN": to("MODEL.CATSEG.BACKBONE.PIXEL_MEAN"),
    "MODEL.PIXEL_STD": to("MODEL.CATSEG.BACKBONE.PIXEL_STD"),
    "MODEL.CLIP_PIXEL_MEAN": to("MODEL.PIXEL_MEAN"),
    "MODEL.CLIP_PIXEL_STD": to("MODEL.PIXEL_STD"),
}
# What the published config files say where a case does not: ours are set up as the published tables were made.
_DEFAULTS = {"TEST.SLIDING_WINDOW": False, f"{_HEAD}POOLING_SIZES": [2, 2]}
# The published words of what is trained, in version 2 and 1.
_FINETUNE = (
    {"attention": "query_value", "full": "transformers", "prompt": "none"},
    {"attention": "visual_attention", "prompt": "none"},
)
# The cases' short names of settings in force -> keys.
_EFFECTIVE = {
    "CLIP": f"{_HEAD}CLIP_PRETRAINED",
    "prompt_ensemble": "MODEL.PROMPT_ENSEMBLE_TYPE",
    "pooling": f"{_HEAD}POOLING_SIZES",
    "sliding_window": "TEST.SLIDING_WINDOW",
    "size_divisibility": "MODEL.MASK_FORMER.SIZE_DIVISIBILITY",
    "num_layers": f"{_HEAD}NUM_LAYERS",
    "pixel_mean": "MODEL.PIXEL_MEAN",
    "pixel_std": "MODEL.PIXEL_STD",
    "clip_pixel_mean": "MODEL.CLIP_PIXEL_MEAN",
    "clip_pixel_std": "MODEL.CLIP_PIXEL_STD",
}


def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a CAT-Seg case with ours."""
    if "v2" in case.meta or "v1" in case.meta:
        return _check_prompts(case)
    cfg = published_config(case)
    model = seeded_model(cfg, case)
    if "loss" in case.meta:
        return check_training(model.train(), case, cfg)
    if "trainable" in case.meta:
        return check_counts(model, case, cfg)
    return _check_inference(model.eval(), case, cfg)


def published_config(case: Case, configs: Mapping[str, str] = _CONFIGS) -> CfgNode:
    """Our config for the official one that a case names, with the case's settings; on the CPU, without weights.

    Args:
        configs: official file -> our config.
    """
    meta = case.meta
    name = config_of(meta["config"], configs, case)
    table = {**_KEYS, f"{_HEAD}CLIP_FINETUNE": choice("MODEL.CLIP.FINETUNE", _FINETUNE["_v1_" in name])}
    effective = {_EFFECTIVE.get(key, key): value for key, value in meta.get("effective", {}).items()}
    overrides = [meta.get("overrides"), meta.get("config_overrides")]
    if "pooling" in meta:
        effective[f"{_HEAD}POOLING_SIZES"] = meta["pooling"]
    return case_config(name, options(table, pairs(_DEFAULTS, *overrides, effective)))


def _check_inference(model: CATSeg, case: Case, cfg: CfgNode) -> list[Comparison]:
    meta = case.meta
    pixels = shortest_edge(picture(meta["image"]), meta["feeding"])
    size = (meta["output_height"], meta["output_width"])
    rows = [compare_equal("fed size", list(pixels.shape[:2]), [meta["fed_height"], meta["fed_width"]])]
    views = _recorded_views(case)
    with torch.no_grad(), Recording(model, views) as recording:
        images = model.preprocess([{"image": to_tensor(pixels)}])
        text = model.embed_vocabulary(Vocabulary.published(meta["class_names"]))
        encoded = model.encode(images)
        scores = model.class_scores(encoded, text)
        prediction = model.views.join(scores, encoded.image_sizes)
        sem_seg = prediction.scores([size])[0]
        labels = prediction.label_maps([size])[0]
    rows.append(compare_equal("num_classes", len(text), meta["num_classes"]))
    kept_rows, places = compare_kept(case, scores.kept)
    rows += kept_rows
    arrays = recording.arrays(model, places)
    arrays |= {
        "text_features": text,
        "logits": _all_classes(scores)[:views],
        "logits_all_views": _all_classes(scores),
        "sem_seg": sem_seg,
        "topk_margin": recording.margin(model.class_slots),
    }
    side = cfg.TEST.SLIDING.CANVAS
    canvas = (side, side) if cfg.TEST.SLIDING.ENABLED else (scores.logits.shape[-2], scores.logits.shape[-1])
    if "prob_before_postprocess" in case.names:
        arrays["prob_before_postprocess"] = prediction.scores([canvas])[0]
    for name in case.names:
        if name != "argmax" and arrays.get(name) is not None:
            # A margin is the difference of two cosines and rounds as they do: to 1e-6, however small it is.
            rows.append(case.compare(name, arrays[name], scale=1e-2 if name == "topk_margin" else None))
    if "argmax" in case.names:
        for name, ours in (("argmax", sem_seg.argmax(dim=0)), ("label map", labels)):
            rows.append(_compare_labels(name, case.arrays["argmax"], sem_seg, ours, meta.get("argmax_stride", 4)))
    return rows


def compare_kept(case: Case, kept: Tensor | None) -> tuple[list[Comparison], Tensor | None]:
    """Which classes we aggregate, ascending `[V, K]`, None for all, against the case's; and where each of the case's order
    stands in ours, None where it aggregates all."""
    order = case.arrays.get("topk_classes")
    if order is None:
        return [], None
    wanted = torch.as_tensor(order)
    if kept is None:
        return [compare_equal("kept classes", "all", f"{wanted.shape[1]} of them")], None
    ours = kept[: len(wanted)].contiguous()
    rows = [_same(name="kept classes", ours=ours, wanted=wanted.sort(dim=1).values)]
    return rows, torch.searchsorted(ours, wanted).clamp(max=ours.shape[1] - 1)


def _recorded_views(case: Case) -> int:
    """How many views the stored arrays of the aggregator hold."""
    return next((case.shape(name)[0] for name in ("cost_volume_all", "logits") if name in case.names), 1)


def _all_classes(scores: ClassScores) -> Tensor:
    """Logits `[V, T, h, w]` with the published value for classes that were not aggregated."""
    if scores.kept is None:
        return scores.logits
    full = scores.logits.new_full((len(scores.logits), scores.num_classes, *scores.logits.shape[2:]), REJECTED)
    return full.scatter(1, scores.kept[..., None, None].expand_as(scores.logits), scores.logits)


def _compare_labels(name: str, wanted: np.ndarray, scores: Tensor, labels: Tensor, stride: int) -> Comparison:
    """Label maps at every `stride`-th pixel; near ties between classes (the cases name them) may go either way."""
    target = torch.as_tensor(wanted).long()
    ours, sampled = labels[::stride, ::stride], scores[:, ::stride, ::stride]
    if ours.shape != target.shape:
        return _same(name=name, ours=ours, wanted=target)
    gap = sampled.gather(0, ours[None])[0] - sampled.gather(0, target[None])[0]
    tie = (ours != target) & (gap.abs() <= 1e-5 * scores.abs().max())
    equal = float(((ours == target) | tie).float().mean())
    return Comparison(
        name=name,
        shape=tuple(target.shape),
        difference=float((ours != target).sum()),
        relative=1 - equal,
        passed=equal >= 0.999,
        note=f"{100 * equal:.3f} % equal, {int(tie.sum())} near ties",
    )


def _same(*, name: str, ours: Tensor, wanted: Tensor) -> Comparison:
    wrong = float((ours != wanted).sum()) if ours.shape == wanted.shape else float("nan")
    return Comparison(name=name, shape=tuple(wanted.shape), difference=wrong, relative=wrong, passed=wrong == 0)


def _check_prompts(case: Case) -> list[Comparison]:
    """Prompts and token ids of class names, through the text embedder of the published configs."""
    meta, rows = case.meta, []
    model = build_model(case_config("catseg_vitb"))
    for entry in meta.get("v2", ()):
        ((name,),) = model.text.names(Vocabulary.published([entry["name"]]))
        prompts = model.text.prompts(name)
        ours = {"prompts": prompts, "tokens": model.text.tokenize(prompts)[0].tolist()}
        # Names are stripped here; blanks at their end make no tokens.
        wanted = {"prompts": [entry["v2_prompt"].replace("  ", " ")], "tokens": entry["v2_tokens"]}
        rows.append(compare_sets(f"v2 {entry['name']!r}", ours, wanted))
    templates = TEMPLATES["imagenet"]
    for entry in meta.get("v1", ()):
        (names,) = Vocabulary.published([entry["name"]]).synonyms(split=True)
        prompts = [template.format(name) for template in templates for name in names]
        first, last = len(entry["first"]), len(entry["last"])
        ours = {"num_prompts": len(prompts), "first": prompts[:first], "last": prompts[-last:]}
        rows.append(compare_sets(f"v1 {entry['name']!r}", ours, {key: entry[key] for key in ours}))
    if "num_imagenet_templates" in meta:
        rows.append(compare_equal("num_imagenet_templates", len(templates), meta["num_imagenet_templates"]))
    return rows
