"""Runs FC-CLIP as a reference case says and compares what the case stores."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from conformance import weights
from conformance.case import Case
from conformance.comparison import Comparison, compare_equal, compare_labels
from conformance.generator import GENERATOR_KEYS, resizing, switched_on
from conformance.inputs import as_stored, picture, size_of, striped_batch
from conformance.recording import Arrays, Hook, after, hooked, keep, patched
from conformance.rounding import published_rounding
from conformance.segments import compare_segments
from conformance.settings import Table, case_config, clip_name, free, options, pairs, to
from conformance.trained import compare_trained, embed_classes
from conformance.training import check_training
from twostage.clip.regions.mask_pooling import masks_on_grid, pool_masks
from twostage.data.mapper import to_tensor
from twostage.proposals.masked_decoder import MaskedDecoder
from twostage.systems.two_stage.fcclip.model import FCCLIP, SynonymText
from twostage.systems.two_stage.heads import EncodedMasks

SYSTEMS = ("FC-CLIP", "fcclip")
_KEYS: Table = {
    **GENERATOR_KEYS,
    "MODEL.FC_CLIP.CLIP_MODEL_NAME": to("MODEL.CLIP.NAME", convert=clip_name),
    "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS": free,
    # The width of CLIP's embeddings follows from its name, the classes from the vocabulary.
    "MODEL.FC_CLIP.EMBED_DIM": free,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": free,
    "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA": to("MODEL.FCCLIP.SEEN_WEIGHT"),
    "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA": to("MODEL.FCCLIP.UNSEEN_WEIGHT"),
    "MODEL.FC_CLIP.ENSEMBLE_ON_VALID_MASK": to("MODEL.FCCLIP.ENSEMBLE_ON_VALID_MASK"),
}
# What a case says beside its overrides.
_FIELDS = {
    "alpha": "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA",
    "beta": "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA",
    "ensemble_on_valid_mask": "MODEL.FC_CLIP.ENSEMBLE_ON_VALID_MASK",
    "clip_model": "MODEL.FC_CLIP.CLIP_MODEL_NAME",
    "num_queries": "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES",
    "object_mask_threshold": "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD",
    "overlap_threshold": "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD",
    "panoptic_on": "MODEL.MASK_FORMER.TEST.PANOPTIC_ON",
    "instance_on": "MODEL.MASK_FORMER.TEST.INSTANCE_ON",
    "topk_per_image": "TEST.DETECTIONS_PER_IMAGE",
}
# How published configs of OpenAI's ResNets end, "..._r50x4.yaml"; the others are of the ConvNeXt.
_RESNET_CONFIG = re.compile(r"_r((?:50|101)(?:x\d+)?)\.yaml$")


@published_rounding()
def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of an FC-CLIP case with ours."""
    meta = case.meta
    case.told("panoptic_transfer")
    if "losses_weighted" in meta:
        model, cfg, _ = build(case, clip_of(case), "auto")
        return check_training(model.train(), case, cfg, striped_batch(meta, vocabulary=meta["class_names"]))
    model, cfg, words = seeded_model(case)
    return _check_inference(model, case, cfg, words)


def _settings(case: Case) -> dict[str, Any]:
    """Official key -> value, from the case's fields and its overrides."""
    meta = case.meta
    fields = {key: meta[field] for field, key in _FIELDS.items() if meta.get(field) is not None}
    return pairs(fields, meta.get("config_overrides"))


@torch.no_grad()
def _check_inference(model: FCCLIP, case: Case, cfg: CfgNode, words: SynonymText) -> list[Comparison]:
    meta, arrays = case.meta, Arrays()
    size = size_of(meta["output_size"])
    with recording_fcclip(model, arrays):
        encoded = model.encode(model.preprocess([{"image": to_tensor(picture(meta["image"]))}]))
        prediction = model.decode(encoded, words)
    (scores,) = prediction.scores([size])
    (labels,) = prediction.label_maps([size])
    arrays |= head_arrays(model, encoded, words, arrays)
    arrays |= {
        "text_classifier": words.names,
        "category_overlapping_mask": words.seen.long(),
        "mask_cls_final": prediction.class_logits[0],
        "sem_seg": scores,
        "argmax": as_stored(case, "argmax", scores.argmax(dim=0)),
    }
    rows = case.compare_all(arrays)
    if "num_templates" in meta:
        # Counted as the rows of the classifier that belong to each class.
        rows.append(compare_equal("names per class", words.classes.bincount().tolist(), meta["num_templates"]))
    settings = _settings(case)
    return [
        *rows,
        *compare_trained(case, words.seen),
        compare_labels("label_map", labels, scores.argmax(dim=0)),
        *compare_segments(
            case,
            prediction,
            size,
            cfg,
            all_instances=not switched_on(settings, True, "PANOPTIC_ON"),
        ),
    ]


def seeded_model(case: Case) -> tuple[FCCLIP, CfgNode, SynonymText]:
    """The case's model, its config and its embedded vocabulary.

    Cases of ResNets don't say which activation their text tower had: OpenAI's, with which its weights are published, or the
    exact GELU that open_clip takes for the same tower without weights. The stored text embeddings tell.
    """
    name = clip_of(case)
    if not name.startswith("RN"):
        return build(case, name, "auto")
    exact = build(case, name, "off")
    if "text_classifier" not in case.names or case.compare("text_classifier", exact[2].names).passed:
        return exact
    quick = build(case, name, "on")
    return quick if case.compare("text_classifier", quick[2].names).passed else exact


def clip_of(case: Case) -> str:
    """Name of the CLIP model of a case."""
    settings = _settings(case)
    if "MODEL.FC_CLIP.CLIP_MODEL_NAME" in settings:
        return clip_name(settings["MODEL.FC_CLIP.CLIP_MODEL_NAME"])
    resnet = _RESNET_CONFIG.search(case.meta["config"])
    return f"RN{resnet[1]}" if resnet else "convnext_large_d_320"


def build(case: Case, clip: str, quick_gelu: str) -> tuple[FCCLIP, CfgNode, SynonymText]:
    """The case's model with the given CLIP and activation, its config and its embedded vocabulary."""
    settings = _settings(case)
    cfg = case_config(
        "fcclip_r50" if clip.startswith("RN") else "fcclip_convnextl",
        [
            *("MODEL.CLIP.NAME", clip, "MODEL.CLIP.QUICK_GELU", quick_gelu),
            # Masks are resized before the sum where panoptic or instance output is on.
            *resizing(settings, default=True),
            *options(_KEYS, settings),
        ],
    )
    model = weights.seeded_model(cfg, case).eval()
    return model, cfg, embed_classes(model, case)


@contextlib.contextmanager
def recording_fcclip(model: FCCLIP, arrays: Arrays) -> Iterator[None]:
    """Intermediates of one pass, under the names of the cases."""
    visual = model.clip.visual
    trunk = getattr(visual, "trunk", None)
    stages = list(trunk.stages) if trunk else [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
    hooks: list[Hook] = [
        (trunk.stem if trunk else visual.act3, keep(arrays, "clip_stem", change=torch.clone)),
        *((m, keep(arrays, f"clip_res{i}", change=torch.clone)) for i, m in enumerate(stages, start=2)),
        (stages[-1], keep(arrays, "clip_clip_vis_dense", change=torch.clone)),
        (model.pixel_decoder.mask_features, keep(arrays, "mask_features", change=torch.clone)),
        (model.class_embed, lambda args, out: arrays.update(class_embed_in=args[0], class_embed_out=out)),
    ]

    def keep_first(_allowed: Tensor, _decoder: Any, queries: Tensor, *_: Any) -> None:
        # The first call is for the raw queries.
        arrays.setdefault("_first_queries", queries)

    with hooked(hooks), patched(after(MaskedDecoder, "attention_mask", keep_first)):
        yield


def head_arrays(model: FCCLIP, encoded: EncodedMasks, words: SynonymText, recorded: Arrays) -> Arrays:
    """Both classifiers' intermediates on the final masks, and the predictions before any layer."""
    mask_logits, embeddings = encoded.outputs[0]
    features, res5 = recorded["mask_features"], recorded["clip_res5"]
    assert encoded.regions is not None
    first = model.decoder.with_masks(recorded.pop("_first_queries"), features)
    return {
        "decoder_maskpool_final": pool_masks(features, masks_on_grid(mask_logits, features.shape[2:])),
        "pred_logits": model.class_logits(embeddings, words, model.logit_scale),
        "pred_masks": mask_logits,
        "aux0_pred_logits": model.class_logits(model._embed(first, features), words, model.logit_scale),
        "aux0_pred_masks": first.mask_logits,
        "clip_mask_pooled": pool_masks(res5, masks_on_grid(mask_logits, res5.shape[2:])),
        "clip_region_embedding": encoded.regions.embeddings,
        "out_vocab_logits": model.class_logits(encoded.regions.embeddings, words, model.clip.logit_scale),
    }
