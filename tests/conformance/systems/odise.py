"""Runs ODISE as a reference case says and hands out the same arrays that the case stores."""

from __future__ import annotations

import re
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal, compare_labels
from conformance.inputs import as_stored, picture, size_of
from conformance.recording import Arrays
from conformance.rounding import published_rounding
from conformance.seeded import seeded_tensor
from conformance.settings import case_config
from conformance.systems.odise_recording import recording
from conformance.weights import load_seeded
from twostage.data.mapper import to_tensor
from twostage.predictions.masks import MaskPrediction
from twostage.predictions.segments import instances, panoptic_segments
from twostage.systems.building import build_model
from twostage.systems.two_stage.heads import synonym_logits
from twostage.systems.two_stage.odise.diffusion.text_encoder import empty_prompt
from twostage.systems.two_stage.odise.model import ODISE, Encoded, Words
from twostage.vocabulary import Vocabulary

SYSTEMS = ("ODISE", "odise")
_TEXT_ENCODER = "cond_stage_model.transformer."
_PROMPT_TOKENS, _PROMPT_WIDTH, _TEXT_LAYERS, _TOKENS = 77, 768, 12, 49408


@published_rounding()
def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of an ODISE case with ours."""
    case.told(
        "one_to_two_threads_max_rel_diff",
        "config",
        "weights",
        "constant_buffers",
        "num_crops",
        "head_prompt",
        "clip_prompt",
        "run",
        "weight_scales",
    )
    if case.meta["kind"] == "unit":
        from conformance.systems.odise_units import check_unit

        return check_unit(case)
    if case.meta["kind"] == "train":
        from conformance.systems.odise_training import check_training_case

        return check_training_case(case)
    return _check_inference(case)


def seeded_model(case: Case, variant: str, **overrides: Any) -> tuple[ODISE, CfgNode]:
    """The case's model with its weights, and its config.

    Args:
        overrides: of the json.
    """
    meta = case.meta
    told = {name: overrides.get(name, meta.get(name)) for name in ("narrow", "backbone_in_size", "alpha", "beta")}
    opts = [
        *("MODEL.CLIP.NAME", meta["clip_model_name"], "MODEL.CLIP.QUICK_GELU", "on"),
        *("MODEL.ODISE.DIFFUSION.PRETRAINED", "", "MODEL.ODISE.DIFFUSION.RECOMPUTE", "False"),
        *("MODEL.ODISE.CROP_SIZE", str(told["backbone_in_size"][0])),
    ]
    if told["narrow"]:
        unet, vae = told["narrow"]["unet_model_channels"], told["narrow"]["vae_ch"]
        opts += ["MODEL.ODISE.DIFFUSION.UNET_CHANNELS", str((unet, 2 * unet, 4 * unet, 4 * unet))]
        opts += ["MODEL.ODISE.DIFFUSION.VAE_CHANNELS", str((vae, 2 * vae, 4 * vae, 4 * vae))]
    if (top_k := overrides.get("test_topk_per_image", meta.get("test_topk_per_image"))) is not None:
        opts += ["TEST.DETECTIONS_PER_IMAGE", str(top_k)]
    if told["alpha"] is not None:
        opts += ["MODEL.ODISE.SEEN_WEIGHT", str(told["alpha"]), "MODEL.ODISE.UNSEEN_WEIGHT", str(told["beta"])]
    cfg = case_config(f"odise_{variant}", opts)
    model = build_model(cfg)
    assert isinstance(model, ODISE)
    load_seeded(model, model.checkpoint_table(), case)
    model.features.captioner.empty_prompt.copy_(seeded_empty_prompt(meta))
    return model.eval(), cfg


def seeded_empty_prompt(meta: dict[str, Any]) -> Tensor:
    """What the case's text encoder makes of ""."""
    tensors = {}
    for name, shape in _text_shapes().items():
        official = _TEXT_ENCODER + name
        tensors[name] = seeded_tensor(official, shape, meta["weight_seed"])
        for pattern, factor in meta["weight_scales"].items():
            if re.fullmatch(pattern, official):
                tensors[name] = tensors[name] * torch.tensor(factor, dtype=torch.float32)
    return empty_prompt(tensors)


def _text_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of CLIP ViT-L/14's text tower in the transformers library."""
    width = _PROMPT_WIDTH
    prefix = "text_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}embeddings.token_embedding.weight": (_TOKENS, width),
        f"{prefix}embeddings.position_embedding.weight": (_PROMPT_TOKENS, width),
        f"{prefix}final_layer_norm.weight": (width,),
        f"{prefix}final_layer_norm.bias": (width,),
    }
    for index in range(_TEXT_LAYERS):
        layer = f"{prefix}encoder.layers.{index}."
        linears = {**{f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}}
        linears |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for name, shape in linears.items():
            shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{name}.weight": (width,), f"{layer}{name}.bias": (width,)}
    return shapes


def case_words(model: ODISE, meta: dict[str, Any]) -> tuple[Words, Comparison]:
    """The case's embedded vocabulary, and whether we find the same classes trained."""
    words = model.embed_vocabulary(Vocabulary.published(meta["class_names"]))
    wanted = [bool(seen) for seen in meta["category_overlapping_mask"]]
    return words, compare_equal("category_overlapping_mask", words.seen.tolist(), wanted)


@torch.no_grad()
def _check_inference(case: Case) -> list[Comparison]:
    meta, arrays = case.meta, Arrays()
    model, cfg = seeded_model(case, meta["variant"])
    words, overlap = case_words(model, meta)
    images = model.preprocess([{"image": to_tensor(picture(meta["image"]))}])
    with recording(model, arrays):
        encoded = model.encode(images)
    prediction = model.decode(encoded, words)
    size = size_of(meta["output_size"])
    outputs, rows = output_arrays(case, prediction, cfg, size, meta["panoptic_segments"])
    arrays |= head_arrays(model, encoded, words, meta) | outputs
    arrays["mask_embed"], arrays["pred_masks"] = encoded.outputs[0][1], prediction.mask_logits
    arrays["mask_logits_final"] = prediction.resampler(0, size)(prediction.mask_logits[0])
    settle_ties(case, arrays, "inst_scores_sorted", "match_inst_classes_sorted")
    return [overlap, *case.compare_all(arrays), *rows]


def head_arrays(model: ODISE, encoded: Encoded, words: Words, meta: dict[str, Any]) -> Arrays:
    """Both classifiers' intermediates, under the names of the cases."""
    output, embeddings = encoded.outputs[0]
    assert encoded.regions is not None and words.clip is not None
    names = [name for group in Vocabulary.published(meta["class_names"]).synonyms(split=True) for name in group]
    head = model.head_logits(embeddings, model.text_head(words.head), words.classes)
    clip = synonym_logits(encoded.regions, words.clip, words.classes, model.clip.logit_scale, len(words.seen))
    named = head if model.objectness is not None else head[..., :-1]
    arrays = {
        "head_logits": head,
        "clip_logits": clip,
        "open_logits": model.ensemble.join(named, clip, words.seen),
        "clip_mask_embed": encoded.regions,
        "clip_text_embed": model.text.encode_prompts([f"a photo of a {name}." for name in names]),
        "text_embed_projected": model.text_head.text_proj(words.head),
    }
    if model.objectness is not None:
        arrays["class_embed_logits"] = model.objectness(output.queries)
    if model.text_head.null_embed is not None:
        arrays["null_embed_projected"] = model.text_head.text_proj(model.text_head.null_embed)
    return arrays


def output_arrays(
    case: Case,
    prediction: MaskPrediction,
    cfg: CfgNode,
    size: tuple[int, int],
    segments: list[dict[str, Any]],
    prefix: str = "",
) -> tuple[Arrays, list[Comparison]]:
    """Semantic, panoptic and instance output, under the names of the cases behind `prefix`."""
    things = case.meta["thing_ids"]
    (scores,), (labels,) = prediction.scores([size]), prediction.label_maps([size])
    thresholds = {"score_threshold": cfg.TEST.PANOPTIC_SCORE, "overlap_threshold": cfg.TEST.PANOPTIC_OVERLAP}
    ((ids, found),) = panoptic_segments(prediction, [size], things, **thresholds)
    (best,) = instances(prediction, [size], things, top_k=cfg.TEST.DETECTIONS_PER_IMAGE)
    arrays = {
        "mask_cls_final": prediction.class_logits[0],
        "sem_seg": scores,
        "argmax": as_stored(case, f"argmax_{prefix}".removesuffix("_"), scores.argmax(dim=0)),
        "panoptic_seg": as_stored(case, f"{prefix}panoptic_seg", ids),
        "inst_scores_sorted": best.scores,
        "match_inst_classes_sorted": best.pred_classes,
    }
    rows = [
        compare_equal(f"{prefix}panoptic_segments", _described(found), _described(segments)),
        compare_labels("label_map", labels, scores.argmax(dim=0)),
    ]
    return arrays, rows


def _described(segments: list[dict[str, Any]]) -> list[tuple[int, int, bool]]:
    return [(int(s["id"]), int(s["category_id"]), bool(s["isthing"])) for s in segments]


def settle_ties(case: Case, arrays: Arrays, scores: str, classes: str) -> None:
    """Put our instances of score 0 (of masks without a pixel) in the case's order, which nothing determines, where they are
    the same."""
    if f"{classes}__idx" in case.arrays or classes not in case.arrays:
        return
    wanted, ours = torch.from_numpy(case.arrays[classes]), arrays[classes]
    tied = arrays[scores] == 0
    if len(wanted) == len(ours) and torch.equal(wanted[tied].sort().values, ours[tied].sort().values):
        arrays[classes] = torch.where(tied, wanted.to(ours.dtype), ours)
