"""Runs Trident as a reference case says and compares what the case stores."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal
from conformance.inputs import as_stored, picture, resized_picture, size_of
from conformance.proxy import cell_features, describe, post_processed, prediction_arrays, use_templates
from conformance.recording import Arrays, after, patched
from conformance.seeded import seeded_image, seeded_tensor
from conformance.settings import Table, case_config, choice, clip_name, options, to
from conformance.weights import load_seeded, seeded_model
from twostage.checkpoint.renaming import CheckpointTable
from twostage.data.mapper import to_tensor
from twostage.errors import UserError
from twostage.foundation.sam import SAM_SHAPES, Sam, row_blocks
from twostage.foundation.sam_names import SAM_RENAMES
from twostage.foundation.sam_pictures import fitted, masks_at_size, rounded_up
from twostage.foundation.sam_signatures import OFFICIAL
from twostage.inference.resampling import Size
from twostage.systems.training_free.dense_clip.model import PatchEmbeddings
from twostage.systems.training_free.trident.aggregation import aggregate, row_thresholds, value_cosines, weight_rows
from twostage.systems.training_free.trident.model import Trident
from twostage.systems.training_free.trident.prediction import RefinedPrediction
from twostage.systems.training_free.trident.prompts import PromptRule, dense_prompt
from twostage.systems.training_free.trident.refinement import Refiner, SamView
from twostage.systems.training_free.trident.splicing import splice
from twostage.vocabulary import Vocabulary

SYSTEMS = ("Trident",)
# Which of them cuts pictures in halves.
_HALVES = "CityscapesDataset"
_KEYS: Table = {
    "logit_scale": to("MODEL.TRAINING_FREE.LOGIT_SCALE"),
    "prob_thd": to("MODEL.TRAINING_FREE.PROBABILITY_THRESHOLD"),
    "beta": to("MODEL.TRIDENT.BETA"),
    "gamma": to("MODEL.TRIDENT.GAMMA"),
    "slide_crop": to("TEST.SLIDING.TILE"),
    "slide_stride": to("TEST.SLIDING.STRIDE"),
    "cos_fac": to("MODEL.TRIDENT.COSINE_FACTOR"),
    "refine_neg_cos": choice("MODEL.TRIDENT.NEGATIVE_THRESHOLDS", {True: True, False: False}),
}


def check(case: Case) -> list[Comparison]:
    """Compare every array of a Trident case with ours."""
    describe(case)
    case.told("sam_affinity", "inputs")
    if case.meta.get("kind") != "unit":
        return _windows(case)
    return case.compare_all(_prompts(case) if "image_embedding" in case.meta["inputs"] else _aggregation(case))


@torch.no_grad()
def _aggregation(case: Case) -> Arrays:
    """Matrices of four settings, and spliced windows mixed by the first, on values and attention given by formulas."""
    meta = case.meta
    seed, grid = meta["weight_seed"], (10, 16)
    count = grid[0] * grid[1]
    values = torch.cat(
        [cell_features(f"unit.samv{i}", channels=64, grid=grid, mix=0.7 + 0.02 * i, seed=seed) for i in range(12)]
    ).permute(0, 2, 3, 1)
    attention = (15 * seeded_tensor("unit.samattn", (12 * count**2,), seed).view(12, count, count)).softmax(dim=-1)
    unit = F.normalize(values.flatten(1, 2), dim=-1)

    def rows_of(head: int, rows: slice) -> Tensor:
        return attention[head].unflatten(0, grid)[rows].flatten(0, 1)

    arrays: Arrays = {}
    for name in case.names:
        if setting := re.fullmatch(r"weights_cos([\d.]+)_(keepneg|fixneg)", name):
            keeps = setting[2] == "keepneg"
            everything = slice(0, grid[0])
            arrays[name] = weight_rows(
                unit, rows_of, everything, grid[1], factor=float(setting[1]), keeps_negative=keeps
            )
    windows = meta["windows"]
    # Tokens are drawn by the array's own name.
    for name, factor, drawn in (("aggregated", 1, "unit.windows"), ("aggregated_ratio2", 2, "unit.windows_ratio2")):
        top, left, bottom, right = windows["coords"][0]
        cells = (bottom - top, right - left)
        side = cells[0] * factor
        shape = (side * side, len(windows["coords"]), 768)
        tokens = seeded_tensor(drawn, shape, seed) * 768**0.5
        maps = tokens.permute(1, 2, 0).unflatten(2, (side, cells[1] * factor))
        at = [(y, x) for y, x, _, _ in windows["coords"]]
        whole = splice(maps, at, size_of(windows["dst"]), grid=cells)
        mixed = aggregate(whole, values, rows_of, factor=1.2, keeps_negative=True)
        arrays[name] = mixed.flatten(1).T[None]
    return arrays


@torch.no_grad()
def _prompts(case: Case) -> Arrays:
    """SAM's prompt encoder and mask decoder on a given embedding."""
    meta, inputs = case.meta, case.meta["inputs"]
    seed = meta["weight_seed"]
    sam = Sam(shape=SAM_SHAPES["sam_vitb"]).eval()
    load_seeded(sam, CheckpointTable(system="SAM", signatures=(OFFICIAL,), renames=SAM_RENAMES), case)
    embedding = 10 * seeded_tensor("unit.features", (256 * 64 * 64,), seed).view(1, 256, 64, 64)
    size, inside = size_of(inputs["picture_size"]), size_of(inputs["input_size"])
    grey = torch.from_numpy(seeded_image(131, 256, seed).astype(np.float32)).mean(dim=2) / 255
    mask = F.pad(torch.where(grey > 0.3, 0.005 * grey, 0.0), (0, 0, 0, 256 - 131))[None]
    sparse = sam.embed_points(torch.tensor(inputs["points"]), torch.tensor(inputs["boxes"]))
    dense = dense_prompt(sam, mask)
    logits, scores = sam.decode_single(embedding, sparse, dense)
    return {
        "mask_input": mask,
        "sparse": sparse,
        "dense_as_run": dense[0],
        "dense_proper": sam.prompt_encoder.mask_embed(mask[None]),
        "scores": scores,
        "low_res": logits,
        "logits": masks_at_size(logits, inside=inside, size=size, side=sam.side),
    }


def build(case: Case) -> Trident:
    """Our model with the case's settings and seeded weights."""
    meta = case.meta
    if not meta["weights"]["vfm"].startswith("DINO v1 ViT-B/16"):
        raise UserError(f"case '{case.path}' runs {meta['weights']['vfm']!r}; known here: DINO v1 ViT-B/16")
    opts = ["MODEL.CLIP.NAME", clip_name(meta["clip"]), "MODEL.CLIP.QUICK_GELU", "on"]
    opts += ["MODEL.FOUNDATION.PRETRAINED", "", "MODEL.SAM.PRETRAINED", ""]
    opts += ["MODEL.TRIDENT.IN_HALVES", str(meta["dataset_type"] == _HALVES)]
    refinement: Mapping[str, Any] = meta.get("refinement") or {}
    opts += ["MODEL.TRIDENT.REFINE", str(bool(refinement))]
    model = seeded_model(case_config("trident", [*opts, *options(_KEYS, meta["config"])]), case).eval()
    use_templates(model, meta["templates"])
    return model


def refiner(model: Trident, settings: Mapping[str, Any]) -> Refiner:
    """Asks as the case says."""
    assert model.sam is not None
    rule = PromptRule(
        least_probability=settings["coarse_thresh"],
        least_area=settings["minimal_area"],
        mask_factor=settings["sam_mask_coff"],
    )
    return Refiner(sam=model.sam, rule=rule, least_iou=settings["sam_iou_thresh"])


@torch.no_grad()
def _windows(case: Case) -> list[Comparison]:
    meta = case.meta
    model = build(case)
    size = size_of(meta["image"])
    pixels = resized_picture(meta)
    images: Any = model.preprocess([{"image": to_tensor(pixels), "original": to_tensor(picture(meta["image"]))}])
    network = model.network_input(images.tensor[0])
    arrays = _stages(model, network, rounded_up(images.originals[0], model.tower.patch_size[0]), case.names)
    text = model.embed_vocabulary(Vocabulary(tuple(", ".join(names) for names in meta["class_names"])))
    (encoded,) = model.encode(images)
    prediction = dataclasses.replace(model.decode([encoded], text), refiner=None)
    arrays |= prediction_arrays(case, prediction, text, images.tensor, size)
    if settings := meta.get("refinement"):
        arrays |= _refined(case, model, encoded, prediction, arrays["cosine_ori"][0], settings)
    rows = case.compare_all(arrays)
    rows.append(compare_equal("resized", list(pixels.shape[:2]), meta["resized"]))
    rows.append(compare_equal("after_preprocess", list(network.shape[1:]), meta["after_preprocess"]))
    rows.append(compare_equal("windows", len(model.windows_of(network)), meta["windows"]))
    return rows


def _stages(model: Trident, network: Tensor, pixels: np.ndarray, names: list[str]) -> Arrays:
    """From the windows to the features that are named."""
    tower, sam = model.proxy_tower, model.sam
    assert sam is not None
    windows = model.windows_of(network).cut(network[None])
    tokens = tower.before_last(windows)
    features = tower.features(windows, tokens)
    spliced = model.spliced(network)
    mixed = model.aggregated(spliced, pixels)
    tokens_out = mixed.flatten(1).T[None]
    return {
        "windows": windows,
        "vfm_feats": features,
        "last_in": tower.blocks[-1].ln_1(tokens.x)[:, tokens.class_tokens :],
        "last_block": tower.attend(tokens, features, together=True),
        "sam_agg": tokens_out,
        "dense": tower.visual.ln_post(tokens_out) @ tower.visual.proj,
        **(_sam_matrix(model, pixels) if "sam_weights" in names else {}),
    }


def _sam_matrix(model: Trident, pixels: np.ndarray) -> Arrays:
    """SAM's last attention on the picture's part of its grid, three heads of it, and the matrix made of it."""
    sam = model.sam
    assert sam is not None
    part = sam.last_attention(sam.last_input(model.sam_picture(pixels)))
    height, width = (side // 16 for side in fitted((pixels.shape[0], pixels.shape[1]), sam.side))

    def attention(head: int, rows: slice) -> Tensor:
        whole = sam.attention_rows(part, head, rows).unflatten(1, part.keys.shape[1:3])
        return whole.unflatten(0, (rows.stop - rows.start, -1))[:, :width, :height, :width].flatten(2).flatten(0, 1)

    values = part.values[:, :height, :width]
    unit = F.normalize(values.flatten(1, 2), dim=-1)
    everything, factor = slice(0, height), model.cosine_factor
    return {
        "sam_v": values,
        "sam_attn": torch.stack([attention(head, everything) for head in range(3)]),
        "sam_threshold": row_thresholds(value_cosines(unit, everything, width), factor),
        "sam_weights": torch.cat(
            [
                weight_rows(unit, attention, rows, width, factor=factor, keeps_negative=model.keeps_negative)
                for rows in row_blocks(height)
            ]
        ),
    }


def _refined(
    case: Case,
    model: Trident,
    encoded: PatchEmbeddings,
    prediction: RefinedPrediction,
    maps: Tensor,
    settings: Mapping[str, Any],
) -> Arrays:
    """Labels before and after SAM has looked at them, and what it was asked and answered."""
    size: Size = (maps.shape[1], maps.shape[2])
    rule = {"centred": True, "logit_scale": settings["logit_scale"], "prob_thd": settings["prob_thd"]}
    plain: Any = post_processed(prediction, maps, rule)
    asker = refiner(model, settings)
    view: SamView | None = encoded.beside
    assert view is not None
    refined = dataclasses.replace(plain, refiner=asker, views=[view])
    asked: list[tuple[Any, Any]] = []
    with patched(after(Refiner, "ask", lambda out, _self, _view, question: asked.append((question, out)))):
        labels = refined.label_maps([size])[0]
    return {
        "prob_before_refinement": plain.scores([size])[0],
        "argmax_before_refinement": as_stored(case, "argmax_before_refinement", plain.label_maps([size])[0]),
        "boxes": torch.cat([question.boxes for question, _ in asked]),
        "points": torch.cat([question.points for question, _ in asked]),
        "mask_input": asked[0][0].mask,
        "sam_scores": torch.cat([out[1] for _, out in asked]),
        "sam_low_res": torch.cat([out[0][:, 0] for _, out in asked]),
        "prob_refined": refined.scores([size])[0],
        "argmax_refined": as_stored(case, "argmax_refined", labels),
    }
