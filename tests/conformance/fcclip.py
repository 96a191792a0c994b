"""Runs FC-CLIP as a reference case says and hands out the same arrays that the case stores."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from conformance.case import Case, Comparison, load_seeded
from conformance.seeded import seeded_image
from twostage.clip.regions.mask_pooling import masks_on_grid, pool_masks
from twostage.config import load_config
from twostage.proposals.masked_decoder import MaskedDecoder, MaskedQueries
from twostage.proposals.rounding import published_rounding
from twostage.systems.building import build_model
from twostage.systems.two_stage.fcclip.model import FCCLIP, Words
from twostage.systems.two_stage.heads import EncodedMasks
from twostage.vocabulary import Vocabulary

_Arrays = dict[str, Any]

# How published configs of OpenAI's ResNets end, "..._r50x4.yaml"; the others are of the ConvNeXt.
_RESNET_CONFIG = re.compile(r"_r((?:50|101)(?:x\d+)?)\.yaml$")


@published_rounding()
def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of an FC-CLIP case with ours."""
    meta = case.meta
    model, words = _seeded_model(case)
    entry, (height, width) = meta["image"], meta["output_size"]
    pixels = seeded_image(entry["height"], entry["width"], entry["seed"])
    batch = [{"image": torch.as_tensor(pixels.transpose(2, 0, 1).copy())}]
    size = (int(height), int(width))
    arrays: _Arrays = {}
    with torch.no_grad(), _recording(model, arrays):
        encoded = model.encode(model.preprocess(batch))
        prediction = model.decode(encoded, words)
    (scores,) = prediction.scores([size])
    (labels,) = prediction.label_maps([size])
    arrays |= _head_arrays(model, encoded, words, arrays)
    arrays |= {
        "text_classifier": words.names,
        "category_overlapping_mask": words.seen.long(),
        "mask_cls_final": prediction.class_logits[0],
        "sem_seg": scores,
        "argmax": scores.argmax(dim=0)[::4, ::4],
    }
    rows = []
    if "panoptic_segments" in meta:
        things = list(range(0, len(meta["class_names"]), 2))
        ((ids, segments),) = prediction.panoptic([size], things, score_threshold=0.0)
        (instances,) = prediction.instances([size], things)
        arrays |= {"panoptic_seg": ids[::4, ::4], "inst_scores": instances.scores}
        rows.append(_same_segments(segments, meta["panoptic_segments"]))
    rows += [case.compare(name, arrays[name]) for name in case.names]
    rows.append(case.compare_labels("label_map", labels, scores.argmax(dim=0)))
    return rows


def _seeded_model(case: Case) -> tuple[FCCLIP, Words]:
    """The case's model and its embedded vocabulary.

    Cases of ResNets don't say which activation their text tower had: OpenAI's, with which its weights are published, or the
    exact GELU that open_clip takes for the same tower without weights. The stored text embeddings tell.
    """
    name = _clip_name(case.meta)
    if not name.startswith("RN"):
        return _build(case.meta, name, "auto")
    exact = _build(case.meta, name, "off")
    if "text_classifier" not in case.names or case.compare("text_classifier", exact[1].names).passed:
        return exact
    quick = _build(case.meta, name, "on")
    return quick if case.compare("text_classifier", quick[1].names).passed else exact


def _clip_name(meta: dict[str, Any]) -> str:
    """Name of the CLIP model of a case."""
    overrides = _overrides(meta)
    if "MODEL.FC_CLIP.CLIP_MODEL_NAME" in overrides:
        return str(overrides["MODEL.FC_CLIP.CLIP_MODEL_NAME"])
    resnet = _RESNET_CONFIG.search(meta["config"])
    return f"RN{resnet[1]}" if resnet else "convnext_large_d_320"


def _overrides(meta: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(meta["config_overrides"][::2], meta["config_overrides"][1::2], strict=True))


def _build(meta: dict[str, Any], clip_name: str, quick_gelu: str) -> tuple[FCCLIP, Words]:
    root = Path(__file__).parents[2]
    overrides = _overrides(meta)
    # Masks are resized before the sum where panoptic or instance output is on.
    segments = [overrides.get(f"MODEL.MASK_FORMER.TEST.{kind}_ON", True) for kind in ("PANOPTIC", "INSTANCE")]
    cfg = load_config(
        str(root / "configs" / ("fcclip_r50.yaml" if clip_name.startswith("RN") else "fcclip_convnextl.yaml")),
        [
            *("MODEL.DEVICE", "cpu", "MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", ""),
            *("MODEL.CLIP.NAME", clip_name, "MODEL.CLIP.QUICK_GELU", quick_gelu),
            *("MODEL.MASK2FORMER.RESIZE_SCORES", str(not any(segments))),
            *("MODEL.FCCLIP.SEEN_WEIGHT", str(meta["alpha"]), "MODEL.FCCLIP.UNSEEN_WEIGHT", str(meta["beta"])),
            *("MODEL.FCCLIP.ENSEMBLE_ON_VALID_MASK", str(meta["ensemble_on_valid_mask"])),
        ],
    )
    model = build_model(cfg)
    assert isinstance(model, FCCLIP)
    load_seeded(model, model.checkpoint_table(), meta)
    model.eval()
    words = model.embed_vocabulary(Vocabulary.published(meta["class_names"]))
    return model, words._replace(seen=torch.tensor(meta["category_overlapping_mask"], dtype=torch.bool))


@contextlib.contextmanager
def _recording(model: FCCLIP, arrays: _Arrays) -> Iterator[None]:
    """Intermediates of one pass, under the names of the cases."""
    visual = model.clip.visual
    trunk = getattr(visual, "trunk", None)
    stages = list(trunk.stages) if trunk else [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
    stem = trunk.stem if trunk else visual.act3

    def keep(*names: str) -> Any:
        return lambda _module, _inputs, out: arrays.update({name: out.clone() for name in names})

    def keep_head(_module: Any, inputs: Any, out: Tensor) -> None:
        arrays.update(class_embed_in=inputs[0], class_embed_out=out)

    hooks = [stem.register_forward_hook(keep("clip_stem"))]
    hooks += [m.register_forward_hook(keep(f"clip_res{i}")) for i, m in enumerate(stages, start=2)]
    hooks += [
        stages[-1].register_forward_hook(keep("clip_clip_vis_dense")),
        model.pixel_decoder.mask_features.register_forward_hook(keep("mask_features")),
        model.class_embed.register_forward_hook(keep_head),
    ]
    attention_mask = MaskedDecoder.attention_mask

    def record_first(self: MaskedDecoder, queries: Tensor, *args: Any) -> Tensor:
        # The first call is for the raw queries.
        arrays.setdefault("_first_queries", queries)
        return attention_mask(self, queries, *args)

    with mock.patch.object(MaskedDecoder, "attention_mask", record_first):
        yield
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def _head_arrays(model: FCCLIP, encoded: EncodedMasks, words: Words, recorded: _Arrays) -> _Arrays:
    """Both classifiers' intermediates on the final masks, and the predictions before any layer."""
    mask_logits, embeddings = encoded.outputs[0]
    features, res5 = recorded["mask_features"], recorded["clip_res5"]
    assert encoded.regions is not None
    queries = recorded.pop("_first_queries")
    first = MaskedQueries(
        queries, (model.decoder.mask_embed(queries) @ features.flatten(2)).unflatten(2, features.shape[2:])
    )
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


def _same_segments(ours: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> Comparison:
    same = [(s["id"], s["category_id"], bool(s["isthing"])) for s in ours] == [
        (s["id"], s["category_id"], bool(s["isthing"])) for s in wanted
    ]
    return Comparison(
        name="panoptic_segments",
        shape=(len(wanted),),
        difference=float(not same),
        relative=float(not same),
        passed=same,
        note=f"{len(ours)} segments",
    )
