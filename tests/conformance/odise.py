"""Runs ODISE as a reference case says and hands out the same arrays that the case stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case, Comparison, compare_sets, load_seeded
from conformance.odise_recording import recording, same_segments
from conformance.seeded import seeded_image, seeded_tensor
from twostage.config import load_config
from twostage.predictions.masks import MaskPrediction
from twostage.proposals.masked_decoder import MaskedQueries
from twostage.proposals.rounding import published_rounding
from twostage.systems.building import build_model
from twostage.systems.two_stage.heads import synonym_logits
from twostage.systems.two_stage.odise.diffusion.text_encoder import empty_prompt
from twostage.systems.two_stage.odise.model import ODISE, Encoded, Words
from twostage.vocabulary import Vocabulary

Arrays = dict[str, Any]

_TEXT_ENCODER = "cond_stage_model.transformer."
_PROMPT_TOKENS, _PROMPT_WIDTH, _TEXT_LAYERS, _TOKENS = 77, 768, 12, 49408


@published_rounding()
def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of an ODISE case with ours."""
    if case.meta["kind"] == "unit":
        from conformance.odise_units import check_unit

        return check_unit(case)
    if case.meta["kind"] == "train":
        from conformance.odise_training import check_training_case

        return check_training_case(case)
    return _check_inference(case)


def seeded_model(meta: dict[str, Any], variant: str, **overrides: Any) -> tuple[ODISE, CfgNode]:
    """The case's model with its weights, and its config.

    Args:
        overrides: of the json.
    """
    meta = {**meta, **overrides}
    root = Path(__file__).parents[2]
    opts = [
        *("MODEL.DEVICE", "cpu", "MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", ""),
        *("MODEL.CLIP.NAME", meta["clip_model_name"], "MODEL.CLIP.QUICK_GELU", "on"),
        *("MODEL.ODISE.DIFFUSION.PRETRAINED", "", "MODEL.ODISE.DIFFUSION.RECOMPUTE", "False"),
        *("MODEL.ODISE.CROP_SIZE", str(meta["backbone_in_size"][0])),
    ]
    if meta.get("narrow"):
        unet, vae = meta["narrow"]["unet_model_channels"], meta["narrow"]["vae_ch"]
        opts += ["MODEL.ODISE.DIFFUSION.UNET_CHANNELS", str((unet, 2 * unet, 4 * unet, 4 * unet))]
        opts += ["MODEL.ODISE.DIFFUSION.VAE_CHANNELS", str((vae, 2 * vae, 4 * vae, 4 * vae))]
    if "alpha" in meta:
        opts += ["MODEL.ODISE.SEEN_WEIGHT", str(meta["alpha"]), "MODEL.ODISE.UNSEEN_WEIGHT", str(meta["beta"])]
    cfg = load_config(str(root / "configs" / f"odise_{variant}.yaml"), opts)
    model = build_model(cfg)
    assert isinstance(model, ODISE)
    load_seeded(model, model.checkpoint_table(), meta)
    model.features.captioner.empty_prompt.copy_(seeded_empty_prompt(meta))
    return model.eval(), cfg


def seeded_empty_prompt(meta: dict[str, Any]) -> Tensor:
    """What the case's text encoder makes of ""."""
    import re

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
    wanted = meta["category_overlapping_mask"]
    row = compare_sets(
        "category_overlapping_mask", dict(enumerate(words.seen.tolist())), dict(enumerate(map(bool, wanted)))
    )
    return words, row


def _check_inference(case: Case) -> list[Comparison]:
    meta = case.meta
    model, _ = seeded_model(meta, meta["variant"])
    entry = meta["image"]
    pixels = torch.as_tensor(seeded_image(entry["height"], entry["width"], entry["seed"]).transpose(2, 0, 1).copy())
    size = (int(meta["output_size"][0]), int(meta["output_size"][1]))
    arrays: Arrays = {}
    with torch.no_grad():
        words, overlap = case_words(model, meta)
        images = model.preprocess([{"image": pixels}])
        with recording(model, arrays):
            encoded = model.encode(images)
        prediction = model.decode(encoded, words)
        arrays |= head_arrays(model, encoded, words, meta)
        outputs, rows = output_arrays(prediction, size, meta["thing_ids"], meta["panoptic_segments"])
    arrays |= outputs
    arrays["mask_embed"], arrays["pred_masks"] = encoded.outputs[0][1], prediction.mask_logits
    settle_ties(case, arrays, "inst_scores_sorted", "match_inst_classes_sorted")
    arrays["mask_logits_final"] = _at_output(prediction, size)
    return [overlap, *(case.compare(name, arrays[name]) for name in case.names), *rows]


def head_arrays(model: ODISE, encoded: Encoded, words: Words, meta: dict[str, Any]) -> Arrays:
    """Both classifiers' intermediates, under the names of the cases."""
    output, embeddings = encoded.outputs[0]
    assert encoded.regions is not None and words.clip is not None
    names = [name for group in Vocabulary.published(meta["class_names"]).synonyms(split=True) for name in group]
    head = model.head_logits(embeddings, model.text_head(words.head), words.classes)
    clip = synonym_logits(encoded.regions, words.clip, words.classes, model.clip.logit_scale)
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
    prediction: MaskPrediction, size: tuple[int, int], things: list[int], segments: list[dict[str, Any]]
) -> tuple[Arrays, list[Comparison]]:
    """Semantic, panoptic and instance output, under the names of the cases."""
    (scores,), (labels,) = prediction.scores([size]), prediction.label_maps([size])
    ((ids, found),) = prediction.panoptic([size], things, score_threshold=0.0)
    (instances,) = prediction.instances([size], things)
    order = instances.scores.argsort(descending=True, stable=True)
    arrays = {
        "mask_cls_final": prediction.class_logits[0],
        "sem_seg": scores,
        "argmax": scores.argmax(dim=0)[::4, ::4],
        "panoptic_seg": ids[::4, ::4],
        "inst_scores_sorted": instances.scores[order],
        "match_inst_classes_sorted": instances.pred_classes[order],
    }
    differ = float((labels != scores.argmax(dim=0)).float().mean())
    same = Comparison(
        name="label_map", shape=tuple(labels.shape), difference=differ, relative=differ, passed=differ <= 1e-4
    )
    return arrays, [same_segments(found, segments), same]


def settle_ties(case: Case, arrays: Arrays, scores: str, classes: str) -> None:
    """Put our instances of score 0 (of masks without a pixel) in the case's order, which nothing determines, where they are
    the same."""
    if f"{classes}__idx" in case.arrays or classes not in case.arrays:
        return
    wanted, ours = torch.from_numpy(case.arrays[classes]), arrays[classes]
    tied = arrays[scores] == 0
    if len(wanted) == len(ours) and torch.equal(wanted[tied].sort().values, ours[tied].sort().values):
        arrays[classes] = torch.where(tied, wanted.to(ours.dtype), ours)


def _at_output(prediction: MaskPrediction, size: tuple[int, int]) -> Tensor:
    grid = (prediction.mask_logits.shape[-2], prediction.mask_logits.shape[-1])
    resampler = prediction.frames.resampler(0, grid, size, prediction.mask_logits.device)
    return resampler(prediction.mask_logits[0])


def as_queries(queries: Tensor, mask_logits: Tensor) -> MaskedQueries:
    """A prediction made of given arrays."""
    return MaskedQueries(queries, mask_logits)
