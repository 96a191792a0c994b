"""Runs SCAN as a reference case says and hands out the same arrays that the case stores."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from conformance.case import Case, Comparison, load_seeded
from conformance.generator import Arrays, check_training, hooked, keep, striped_batch
from conformance.seeded import seeded_image, stream
from twostage.clip.regions.crops import Cropper, Crops
from twostage.config import load_config
from twostage.errors import UserError
from twostage.proposals.rounding import published_rounding
from twostage.systems.building import build_model
from twostage.systems.two_stage.scan import contextual_shift
from twostage.systems.two_stage.scan import model as scan_model
from twostage.systems.two_stage.scan.model import SCAN
from twostage.vocabulary import Vocabulary

# The published config file -> ours.
_CONFIGS = {"scan_vitB.yaml": "scan_vitb", "scan_vitL.yaml": "scan_vitl"}
# Published keys that cases override -> ours; None where nothing here depends on it.
_KEYS = {
    "MODEL.CLIP_ADAPTER.REPLACE_RATIO": "MODEL.SCAN.SHIFT_RATIO",
    "MODEL.CLIP_ADAPTER.CLIP_ENSEMBLE_WEIGHT": "MODEL.SCAN.ENSEMBLE_WEIGHT",
    "MODEL.CLIP_ADAPTER.MASK_THR": "MODEL.SCAN.MASK_THRESHOLD",
    "MODEL.SWIN.DROP_PATH_RATE": "MODEL.SWIN.DROP_PATH_RATE",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": None,
}
# Entries of an inference case -> our keys.
_SETTINGS = {
    "mask_thr": "MODEL.SCAN.MASK_THRESHOLD",
    "clip_ensemble_weight": "MODEL.SCAN.ENSEMBLE_WEIGHT",
    "replace_ratio": "MODEL.SCAN.SHIFT_RATIO",
    "replace_layer": "MODEL.SCAN.SHIFT_BLOCKS",
    "select_ori_clip_id": "MODEL.SCAN.CONTEXT_BLOCKS",
    "frequency_sigma": "MODEL.SCAN.FREQUENCY_SIGMA",
}
_WEIGH_VOID = ("ade20k_full_sem_seg_val", "pascal_context_459_sem_seg_val")


@published_rounding()
def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a SCAN case with ours."""
    cfg = _config(case.meta)
    model = build_model(cfg)
    load_seeded(model, model.checkpoint_table(), case.meta)
    if "losses_weighted" not in case.meta:
        return _check_inference(model.eval(), case)
    table = json.loads((case.path.parent / case.meta["trainable_table"]).read_text(encoding="utf-8"))
    batch = striped_batch(case.meta, vocabulary=case.meta["class_names"])
    # The mask behind the last layer but one is matched in the published code, but its losses have no weight.
    last = cfg.MODEL.MASK2FORMER.DECODER_LAYERS - 1
    return check_training(model.train(), case, cfg, batch, table["trainable"], unmade=f"match_{last}_")


def _config(meta: dict[str, Any]) -> CfgNode:
    if meta["config"] not in _CONFIGS:
        raise UserError(f"no config of ours for the case's {meta['config']!r}")
    opts = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", ""]
    overrides = meta["config_overrides"]
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        if key not in _KEYS:
            raise UserError(f"the case overrides {key!r}, which has no key here")
        if (ours := _KEYS[key]) is not None:
            opts += [ours, str(value)]
    for entry, key in _SETTINGS.items():
        if entry in meta:
            opts += [key, str([float(v) for v in meta[entry]] if "SIGMA" in key else meta[entry])]
    if "dropout" in meta:
        opts += ["MODEL.SCAN.REFINE_DROPOUT", "0.0"]
    opts += ["MODEL.SCAN.WEIGH_VOID", str(meta.get("dataset_name") in _WEIGH_VOID)]
    cfg = load_config(str(Path(__file__).parents[2] / "configs" / f"{_CONFIGS[meta['config']]}.yaml"), opts)
    # Every tensor comes from the seed, so no pretrained weights are read.
    cfg.MODEL.CLIP.PRETRAINED = ""
    return cfg


def _check_inference(model: SCAN, case: Case) -> list[Comparison]:
    meta = case.meta
    arrays: Arrays = {}
    entry = meta["image"]
    image = torch.as_tensor(seeded_image(entry["height"], entry["width"], entry["seed"]).transpose(2, 0, 1).copy())
    size = (int(meta["output_size"][0]), int(meta["output_size"][1]))
    with torch.no_grad():
        text = model.embed_vocabulary(Vocabulary.published(meta["class_names"]))
        with _recording(model, meta["weight_seed"], arrays):
            encoded = model.encode(model.preprocess([{"image": image}]))
        prediction = model.decode(encoded, text)
        (scores,) = prediction.scores([size])
        (labels,) = prediction.label_maps([size])
        classifier = model.classifier(text).rows
    assert encoded.regions is not None
    valid = encoded.regions.valid[0]
    arrays |= {
        "text_features": classifier / scan_model._LOGIT_SCALE,
        "pred_masks": prediction.mask_logits,
        "pred_logits": prediction.class_logits[0],
        "region_logits": encoded.regions.embeddings[0, valid] @ classifier.T,
        "valid": valid.float() if case.arrays["valid"].dtype != bool else valid,
        "sem_seg": scores,
        "argmax": scores.argmax(dim=0)[::4, ::4],
    }
    for name in ("regions", "region_masks", "region_embeddings"):
        arrays[name] = torch.cat(arrays[name])
    rows = [case.compare(name, arrays[name]) for name in case.names]
    # The label map that evaluation uses must say the same as the full scores.
    rows.append(case.compare_labels("label_map", labels, scores.argmax(dim=0)))
    return rows


@contextlib.contextmanager
def _recording(model: SCAN, seed: int, arrays: Arrays) -> Iterator[None]:
    """Keep intermediates of one forward pass in `arrays`, and draw replaced tokens from the case's streams."""
    calibration, generator = model.calibration, model.generator
    run, project = scan_model.run_blocks, scan_model.project_tokens
    cut, embed = Cropper.__call__, contextual_shift.image_embeddings
    filtered: list[Tensor] = []
    for name in ("regions", "region_masks", "region_embeddings"):
        arrays[name] = []

    def keep_filtered(_args: Any, out: Tensor) -> None:
        arrays[f"lfm_{len(filtered)}"] = out
        filtered.append(out)

    def record_blocks(*args: Any) -> Any:
        last, tapped = run(*args)
        for block, tokens in tapped.items():
            arrays[f"original_clip_tokens_{block}"] = tokens.x[:, 1:].transpose(0, 1)
            arrays[f"original_clip_cls_{block}"] = tokens.class_token.transpose(0, 1)
        return last, tapped

    def record_projection(*args: Any) -> Tensor:
        out = project(*args)
        arrays["original_clip_final_cls"] = out[:, 0]
        return out

    def record_crops(self: Cropper, *args: Any) -> Crops:
        crops = cut(self, *args)
        arrays["regions"].append(crops.images)
        arrays["region_masks"].append(crops.masks)
        return crops

    def record_embeddings(*args: Any) -> Tensor:
        out = embed(*args)
        arrays["region_embeddings"].append(out)
        return out

    hooks: list[tuple[nn.Module, Callable[[Any, Any], None]]] = [
        (generator.backbone, lambda _a, out: arrays.update({f"backbone_{name}": x for name, x in out.items()})),
        (generator.pixel_decoder.mask_features, keep(arrays, "mask_features")),
        (model.context_clip.conv1, lambda args, _o: arrays.update(clip_input_224=args[0])),
        (calibration.frequency_filter, keep_filtered),
        (calibration.projection, keep(arrays, "oriclip_mlp")),
        (model.class_embed, keep(arrays, "query_class_embed")),
        (calibration.fusion, keep(arrays, "fusion_decoder")),
        (calibration.refinement[0], lambda args, _o: arrays.update(lightweight_in=args[0])),
        (calibration.refinement[-1], keep(arrays, "lightweight_out")),
    ]
    with (
        hooked(hooks),
        mock.patch.object(scan_model, "run_blocks", record_blocks),
        mock.patch.object(scan_model, "project_tokens", record_projection),
        mock.patch.object(Cropper, "__call__", record_crops),
        mock.patch.object(contextual_shift, "image_embeddings", record_embeddings),
        mock.patch.object(contextual_shift, "replacement_noise", lambda *args: _named_noise(seed, *args)),
    ):
        yield


def _named_noise(seed: int, layer: int, background: Tensor, first: int) -> Tensor:
    """The case's random numbers: one stream per block and region, over the region's background patches only."""
    noise = torch.zeros(background.shape)
    for index, row in enumerate(background):
        drawn = stream(seed, f"replace:{layer}:{first + index}").random(int(row.sum()), dtype=np.float32)
        noise[index, row] = torch.from_numpy(drawn)
    return noise
