"""Runs SCAN as a reference case says and compares what the case stores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_labels
from conformance.formulas import found
from conformance.generator import GENERATOR_KEYS
from conformance.inputs import as_stored, picture, size_of, striped_batch
from conformance.recording import Arrays, Hook, after, hooked, keep, keep_input, keep_levels, patched
from conformance.rounding import published_rounding
from conformance.seeded import stream
from conformance.settings import Table, case_config, clip_name, config_of, first_word, free, options, pairs, to
from conformance.training import check_training
from conformance.weights import seeded_model
from twostage.clip.regions.crops import Cropper, Crops
from twostage.data.mapper import to_tensor
from twostage.systems.two_stage.scan import contextual_shift
from twostage.systems.two_stage.scan import model as scan_model
from twostage.systems.two_stage.scan.model import SCAN
from twostage.vocabulary import Vocabulary

SYSTEMS = ("SCAN", "scan")
_CONFIGS = {"scan_vitB": "scan_vitb", "scan_vitL": "scan_vitl"}


def _sigma(value: Any) -> list[float]:
    return [float(v) for v in value]


_KEYS: Table = {
    **GENERATOR_KEYS,
    # Here the published figure counts layers.
    "MODEL.MASK_FORMER.DEC_LAYERS": to("MODEL.MASK2FORMER.DECODER_LAYERS"),
    # The classes follow from the vocabulary.
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": free,
    "MODEL.SEM_SEG_HEAD.EMBEDDING_DIM": free,
    "MODEL.SEM_SEG_HEAD.EMBED_HIDDEN_DIM": to("MODEL.SCAN.EMBED_HIDDEN"),
    "MODEL.CLIP_ADAPTER.CLIP_MODEL_NAME": to("MODEL.CLIP.NAME", convert=clip_name),
    "MODEL.CLIP_ADAPTER.TEXT_TEMPLATES": to("MODEL.CLIP.TEMPLATES", convert=first_word),
    "MODEL.CLIP_ADAPTER.MASK_THR": to("MODEL.SCAN.MASK_THRESHOLD"),
    "MODEL.CLIP_ADAPTER.CLIP_ENSEMBLE_WEIGHT": to("MODEL.SCAN.ENSEMBLE_WEIGHT"),
    "MODEL.CLIP_ADAPTER.REPLACE_RATIO": to("MODEL.SCAN.SHIFT_RATIO"),
    "MODEL.CLIP_ADAPTER.REPLACE_LAYER": to("MODEL.SCAN.SHIFT_BLOCKS"),
    "MODEL.CLIP_ADAPTER.SELECT_ORI_CLIP_ID": to("MODEL.SCAN.CONTEXT_BLOCKS"),
    "MODEL.CLIP_ADAPTER.FREQUENCY_SIGMA": to("MODEL.SCAN.FREQUENCY_SIGMA", convert=_sigma),
}
# What a case says beside its overrides.
_FIELDS = {
    "mask_thr": "MODEL.CLIP_ADAPTER.MASK_THR",
    "clip_ensemble_weight": "MODEL.CLIP_ADAPTER.CLIP_ENSEMBLE_WEIGHT",
    "replace_ratio": "MODEL.CLIP_ADAPTER.REPLACE_RATIO",
    "replace_layer": "MODEL.CLIP_ADAPTER.REPLACE_LAYER",
    "select_ori_clip_id": "MODEL.CLIP_ADAPTER.SELECT_ORI_CLIP_ID",
    "frequency_sigma": "MODEL.CLIP_ADAPTER.FREQUENCY_SIGMA",
}
_WEIGH_VOID = ("ade20k_full_sem_seg_val", "pascal_context_459_sem_seg_val")


@published_rounding()
def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a SCAN case with ours."""
    cfg = _config(case)
    model = seeded_model(cfg, case)
    if "losses_weighted" in case.meta:
        batch = striped_batch(case.meta, vocabulary=case.meta["class_names"])
        return check_training(model.train(), case, cfg, batch)
    return _check_inference(model.eval(), case)


def _config(case: Case) -> CfgNode:
    meta = case.meta
    fields = {key: meta[field] for field, key in _FIELDS.items() if meta.get(field) is not None}
    settings = pairs(fields, meta.get("config_overrides"))
    opts = ["MODEL.SCAN.WEIGH_VOID", str(meta.get("dataset_name") in _WEIGH_VOID), *options(_KEYS, settings)]
    if "dropout" in meta:
        rate = found(r"lightweight_transformer set to ([\d.]+)", meta["dropout"], "the dropout")[1]
        opts += ["MODEL.SCAN.REFINE_DROPOUT", rate.rstrip(".")]
    case.told("replacement_randomness")
    return case_config(config_of(meta["config"], _CONFIGS, case), opts)


@torch.no_grad()
def _check_inference(model: SCAN, case: Case) -> list[Comparison]:
    meta, arrays = case.meta, Arrays()
    size = size_of(meta["output_size"])
    text = model.embed_vocabulary(Vocabulary.published(meta["class_names"]))
    with _recording(model, meta["weight_seed"], arrays):
        encoded = model.encode(model.preprocess([{"image": to_tensor(picture(meta["image"]))}]))
    prediction = model.decode(encoded, text)
    (scores,) = prediction.scores([size])
    (labels,) = prediction.label_maps([size])
    classifier = model.classifier(text).rows
    assert encoded.regions is not None
    valid = encoded.regions.valid[0]
    arrays |= {
        "text_features": F.normalize(classifier, dim=-1),
        "pred_masks": prediction.mask_logits,
        "pred_logits": prediction.class_logits[0],
        "region_logits": encoded.regions.embeddings[0, valid] @ classifier.T,
        "valid": valid.float(),
        "sem_seg": scores,
        "argmax": as_stored(case, "argmax", scores.argmax(dim=0)),
    }
    for name in ("regions", "region_masks", "region_embeddings"):
        arrays[name] = torch.cat(arrays[name]) if arrays[name] else None
    # The label map that evaluation uses must say the same as the full scores.
    return [*case.compare_all(arrays), compare_labels("label_map", labels, scores.argmax(dim=0))]


@contextlib.contextmanager
def _recording(model: SCAN, seed: int, arrays: Arrays) -> Iterator[None]:
    """Keep intermediates of one forward pass in `arrays`, and draw replaced tokens from the case's streams."""
    calibration, generator = model.calibration, model.generator
    filtered: list[Tensor] = []
    regions: dict[str, list[Tensor]] = {name: [] for name in ("regions", "region_masks", "region_embeddings")}
    arrays.update(regions)

    def keep_filtered(_args: Any, out: Tensor) -> None:
        arrays[f"lfm_{len(filtered)}"] = out
        filtered.append(out)

    def keep_taps(out: Any, *_: Any) -> None:
        for block, tokens in out[1].items():
            arrays[f"original_clip_tokens_{block}"] = tokens.x[:, 1:].transpose(0, 1)
            arrays[f"original_clip_cls_{block}"] = tokens.class_token.transpose(0, 1)

    def keep_crops(crops: Crops, *_: Any) -> None:
        regions["regions"].append(crops.images)
        regions["region_masks"].append(crops.masks)

    hooks: list[Hook] = [
        (generator.backbone, keep_levels(arrays)),
        (generator.pixel_decoder.mask_features, keep(arrays, "mask_features")),
        (model.context_clip.conv1, keep_input(arrays, "clip_input_224")),
        (calibration.frequency_filter, keep_filtered),
        (calibration.projection, keep(arrays, "oriclip_mlp")),
        (model.class_embed, keep(arrays, "query_class_embed")),
        (calibration.fusion, keep(arrays, "fusion_decoder")),
        (calibration.refinement[0], keep_input(arrays, "lightweight_in")),
        (calibration.refinement[-1], keep(arrays, "lightweight_out")),
    ]
    with (
        hooked(hooks),
        patched(
            after(scan_model, "run_blocks", keep_taps),
            after(scan_model, "project_tokens", lambda out, *_: arrays.update(original_clip_final_cls=out[:, 0])),
            after(Cropper, "__call__", keep_crops),
            after(contextual_shift, "image_embeddings", lambda out, *_: regions["region_embeddings"].append(out)),
            (contextual_shift, "replacement_noise", lambda *args: _named_noise(seed, *args)),
        ),
    ):
        yield


def _named_noise(seed: int, layer: int, background: Tensor, first: int) -> Tensor:
    """The case's random numbers: one stream per block and region, over the region's background patches only."""
    noise = torch.zeros(background.shape)
    for index, row in enumerate(background):
        drawn = stream(seed, f"replace:{layer}:{first + index}").random(int(row.sum()), dtype=np.float32)
        noise[index, row] = torch.from_numpy(drawn)
    return noise
