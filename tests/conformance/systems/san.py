"""Runs SAN as a reference case says and compares what the case stores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal, compare_labels
from conformance.inputs import as_stored, picture, shortest_edge, size_of
from conformance.recording import Arrays, Hook, after, hooked, keep, keep_input, patched
from conformance.settings import (
    Table,
    case_config,
    choice,
    clip_name,
    config_of,
    first_word,
    free,
    on_off,
    only,
    options,
    pairs,
    to,
)
from conformance.systems.san_training import check_training
from conformance.weights import seeded_model
from twostage.clip.regions import shadow_tokens as recognition
from twostage.data.mapper import to_tensor
from twostage.systems.two_stage.san import model as san_model
from twostage.systems.two_stage.san.model import SAN
from twostage.vocabulary import Vocabulary

SYSTEMS = ("SAN", "san")
_CONFIGS = {"san_clip_vit_res4_coco": "san_vitb", "san_clip_vit_large_res4_coco": "san_vitl"}
_KEYS: Table = {
    "MODEL.SAN.CLIP_MODEL_NAME": to("MODEL.CLIP.NAME", convert=clip_name),
    "MODEL.SAN.CLIP_PRETRAINED_NAME": free,
    "MODEL.SAN.CLIP_TEMPLATE_SET": to("MODEL.CLIP.TEMPLATES", convert=first_word),
    "MODEL.SAN.CLIP_RESOLUTION": to("MODEL.SAN.CLIP_RESOLUTION"),
    "MODEL.SAN.ASYMETRIC_INPUT": only(True),
    "MODEL.SAN.FEATURE_LAST_LAYER_IDX": to("MODEL.SAN.SPLIT_BLOCK"),
    "MODEL.SAN.SIZE_DIVISIBILITY": to("MODEL.SAN.SIZE_DIVISIBILITY"),
    "MODEL.SAN.CLASS_WEIGHT": to("MODEL.MASK_LOSS.CLASS_WEIGHT"),
    "MODEL.SAN.MASK_WEIGHT": to("MODEL.MASK_LOSS.MASK_WEIGHT"),
    "MODEL.SAN.DICE_WEIGHT": to("MODEL.MASK_LOSS.DICE_WEIGHT"),
    "MODEL.SAN.NO_OBJECT_WEIGHT": to("MODEL.MASK_LOSS.NO_OBJECT_WEIGHT"),
    "MODEL.SAN.TRAIN_NUM_POINTS": to("MODEL.MASK_LOSS.NUM_POINTS"),
    "MODEL.SAN.OVERSAMPLE_RATIO": to("MODEL.MASK_LOSS.OVERSAMPLE_RATIO"),
    "MODEL.SAN.IMPORTANCE_SAMPLE_RATIO": to("MODEL.MASK_LOSS.IMPORTANCE_SAMPLE_RATIO"),
    # It follows from the vocabulary.
    "MODEL.SAN.NUM_CLASSES": free,
    "MODEL.SAN.CLIP_FROZEN_EXCLUDE": only(["positional_embedding"]),
    "MODEL.SAN.CLIP_DEEPER_FROZEN_EXCLUDE": only([]),
    "MODEL.SAN.REC_CROSS_ATTN": only(False),
    "MODEL.SAN.REC_DOWNSAMPLE_METHOD": only("max"),
    "MODEL.SAN.SOS_TOKEN_FORMAT": only("cls_token"),
    "MODEL.SAN.SEM_SEG_POSTPROCESS_BEFORE_INFERENCE": only(True),
    "MODEL.SIDE_ADAPTER.NUM_QUERIES": to("MODEL.SAN.NUM_QUERIES"),
    "MODEL.SAN.SOS_TOKEN_NUM": to("MODEL.SAN.NUM_QUERIES"),
    "MODEL.SIDE_ADAPTER.IMAGE_SIZE": to("MODEL.SAN.IMAGE_SIZE"),
    "MODEL.SIDE_ADAPTER.FUSION_MAP": to("MODEL.SAN.FUSION_MAP"),
    "MODEL.SIDE_ADAPTER.FUSION_TYPE": only("add"),
    # Published indices count the last block, whose output always is decoded.
    "MODEL.SIDE_ADAPTER.DEEP_SUPERVISION_IDXS": to(
        "MODEL.SAN.AUXILIARY_BLOCKS", convert=lambda blocks: [b for b in blocks if b < 8]
    ),
    "MODEL.SIDE_ADAPTER.VIT_NAME": choice("MODEL.SAN.WIDTH", {"vit_w240n6d8_patch16": 240}),
    "MODEL.SIDE_ADAPTER.PRETRAINED": free,
    "MODEL.SIDE_ADAPTER.DROP_PATH_RATE": only(0.0, 0),
    # As many as CLIP's.
    "MODEL.SIDE_ADAPTER.ATTN_BIAS.NUM_HEADS": free,
    "MODEL.SIDE_ADAPTER.ATTN_BIAS.NUM_LAYERS": only(1),
    "MODEL.SIDE_ADAPTER.ATTN_BIAS.EMBED_CHANNELS": to("MODEL.SAN.DECODER_CHANNELS"),
    "MODEL.SIDE_ADAPTER.ATTN_BIAS.MLP_CHANNELS": to("MODEL.SAN.DECODER_CHANNELS"),
    "MODEL.SIDE_ADAPTER.ATTN_BIAS.MLP_NUM_LAYERS": only(3),
    "MODEL.SIDE_ADAPTER.ATTN_BIAS.RESCALE_ATTN_BIAS": only(True),
    "quick_gelu": to("MODEL.CLIP.QUICK_GELU", convert=on_off),
}
# The cases' short names of settings -> keys.
_SHORT = {
    "CLIP_MODEL_NAME": "MODEL.SAN.CLIP_MODEL_NAME",
    "CLIP_RESOLUTION": "MODEL.SAN.CLIP_RESOLUTION",
    "FEATURE_LAST_LAYER_IDX": "MODEL.SAN.FEATURE_LAST_LAYER_IDX",
    "FUSION_MAP": "MODEL.SIDE_ADAPTER.FUSION_MAP",
    "NUM_HEADS": "MODEL.SIDE_ADAPTER.ATTN_BIAS.NUM_HEADS",
    "NUM_QUERIES": "MODEL.SIDE_ADAPTER.NUM_QUERIES",
    "templates": "MODEL.SAN.CLIP_TEMPLATE_SET",
    "SIZE_DIVISIBILITY": "MODEL.SAN.SIZE_DIVISIBILITY",
}


def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a SAN case with ours."""
    cfg = _config(case)
    model = seeded_model(cfg, case)
    if "losses_weighted" in case.meta:
        return check_training(model.train(), case, cfg)
    return _check_inference(model.eval(), case)


def _config(case: Case) -> CfgNode:
    meta = case.meta
    name = config_of(meta["config_file"], _CONFIGS, case)
    settings = {_SHORT.get(key, key): value for key, value in pairs(meta.get("config")).items()}
    settings |= pairs(*(meta.get(field) for field in ("config_override", "config_overrides", "overrides")))
    return case_config(name, options(_KEYS, settings))


@torch.no_grad()
def _check_inference(model: SAN, case: Case) -> list[Comparison]:
    meta, arrays = case.meta, Arrays()
    pixels = picture({"hw": meta["image_hw"], "seed": meta["image_seed"]})
    if meta.get("resize", "none") != "none":
        pixels = shortest_edge(pixels, meta["resize"])
    arrays["image_resized"] = pixels
    height, width = size_of(meta["output_hw"])
    names = Vocabulary.published(meta["class_names"])
    with _recording(model, arrays):
        images = model.preprocess([{"image": to_tensor(pixels), "height": height, "width": width}])
        text = model.text(names)
        encoded = model.encode(images)
        prediction = model.decode(encoded, text)
        scores = prediction.scores([(height, width)])[0]
        labels = prediction.label_maps([(height, width)])[0]
    classifier = model.classifier(text).rows
    grid = (prediction.mask_logits.shape[-2], prediction.mask_logits.shape[-1])
    resampler = prediction.geometry.resampler(0, grid, (height, width), scores.device)
    arrays |= {
        "ov_classifier_normalised": F.normalize(classifier, dim=-1),
        "ov_classifier_weight": classifier,
        "side_input": images.tensor,
        "mask_preds": prediction.mask_logits,
        "mask_embs": encoded.outputs[0][1],
        "mask_logits": prediction.class_logits[0],
        "mask_pred_resized": resampler(prediction.mask_logits[0]),
        "sem_seg": scores,
        "argmax": as_stored(case, "argmax", scores.argmax(dim=0)),
    }
    sizes = {
        "fed_hw": pixels.shape[:2],
        "padded_hw": images.tensor.shape[2:],
        "clip_input_hw": arrays["clip_input"].shape[2:],
        "side_grid": grid,
    }
    rows = case.compare_all(arrays)
    rows += [compare_equal(name, list(size), meta[name]) for name, size in sizes.items() if name in meta]
    # It follows from CLIP's input; how pictures are fed is told in words.
    case.told("clip_grid", "image", "inputs", "dataset_name", "variant")
    # The label map that evaluation uses must say the same as the full scores.
    return [*rows, compare_labels("label map", labels, scores.argmax(dim=0))]


@contextlib.contextmanager
def _recording(model: SAN, arrays: Arrays) -> Iterator[None]:
    """Keep intermediates of one forward pass in `arrays`, under the names of the cases."""
    adapter, queries = model.side_adapter, model.side_adapter.query_embed.shape[1]
    hooks: list[Hook] = [(block, keep(arrays, f"side_block_{i}_out")) for i, block in enumerate(adapter.blocks)]
    hooks += [
        (adapter.decoder.query_mlp, lambda args, out: arrays.update(query_tokens=args[0], query_mlp_out=out)),
        (adapter.decoder.pix_mlp, keep(arrays, "pix_mlp_out")),
        (model.clip.visual.ln_post, keep(arrays, "rec_sos_ln_post")),
        (model.clip.visual.conv1, keep_input(arrays, "clip_input")),
    ]
    seen: list[Any] = []

    def keep_fused(out: Tensor, index: int, *_: Any) -> None:
        arrays[f"side_after_fusion_layer_{index}"] = out[:, queries:]

    def keep_taps(out: Any, *_: Any) -> None:
        for index, tokens in out[1].items():
            arrays[f"clip_feat_{index}"] = tokens.patch_map
            arrays[f"clip_cls_{index}"] = tokens.class_token.transpose(0, 1)

    def keep_shadows(out: Tensor, block: Any, *_: Any) -> None:
        # The first call of a block is for the shadow tokens.
        if block not in seen:
            arrays[f"rec_block_{len(seen)}_sos"] = out.transpose(0, 1)
            seen.append(block)

    def keep_bias(pooled: Tensor, bias: Tensor, _grid: Any) -> None:
        arrays["attn_bias"], arrays["rec_attn_mask"] = bias, dense_mask(pooled[0])

    with (
        hooked(hooks),
        patched(
            after(adapter, "_fuse", keep_fused),
            after(san_model, "run_blocks", keep_taps),
            after(recognition, "finish_block", keep_shadows),
            after(recognition, "pool_bias", keep_bias),
        ),
    ):
        yield


def dense_mask(pooled: Tensor) -> Tensor:
    """The published additive mask `[H, S + 1 + N, S + 1 + N]` that our attention stands for, from biases `[H, S, N]`."""
    heads, shadows, patches = pooled.shape
    mask = pooled.new_zeros(heads, shadows + 1 + patches, shadows + 1 + patches)
    mask[:, :, :shadows] = -100
    mask[:, :shadows, shadows] = -100
    mask[:, range(shadows), range(shadows)] = 0
    mask[:, :shadows, shadows + 1 :] = pooled
    return mask
