"""Runs CorrCLIP as a reference case says and compares what the case stores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal
from conformance.inputs import as_stored, picture, resized_picture, size_of
from conformance.proxy import cell_features, describe, post_processed, prediction_arrays, use_templates
from conformance.recording import Arrays
from conformance.seeded import seeded_tensor
from conformance.settings import Table, case_config, clip_name, only, options, to
from conformance.weights import seeded_model
from twostage.clip.dense.proxy import unit_patches
from twostage.clip.regions.shadow_tokens import run_region_tokens
from twostage.clip.towers.vit import run_blocks
from twostage.data.mapper import to_tensor
from twostage.inference.mosaic import Mosaic
from twostage.inference.sliding import TileGrid
from twostage.systems.mask_sources.contract import fitted_labels
from twostage.systems.training_free.corrclip.model import PADDING, CorrClip
from twostage.systems.training_free.corrclip.scope import majority_labels, region_distances
from twostage.systems.training_free.corrclip.tower import CorrTower, at_grid, region_members
from twostage.vocabulary import Vocabulary

SYSTEMS = ("CorrCLIP",)
_SPATIAL = "5..9 (outputs, 0-based)"
_KEYS: Table = {
    "logit_scale": to("MODEL.TRAINING_FREE.LOGIT_SCALE"),
    "prob_thd": to("MODEL.TRAINING_FREE.PROBABILITY_THRESHOLD"),
    "slide_crop": to("TEST.SLIDING.TILE"),
    "slide_stride": to("TEST.SLIDING.STRIDE"),
    "alpha": to("MODEL.CORRCLIP.SPATIAL_WEIGHT"),
    "beta": to("MODEL.CORRCLIP.SEMANTIC_WEIGHT"),
    "tau": to("MODEL.CORRCLIP.FACTOR"),
    "eps": to("MODEL.CORRCLIP.MERGE_DISTANCE"),
    "min_samples": only(1),
    "spatial_blocks": only(_SPATIAL),
}


def check(case: Case) -> list[Comparison]:
    """Compare every array of a CorrCLIP case with ours."""
    describe(case)
    case.told("mask_rule", "masks", "merging", "captured_window_top_left")
    if case.meta.get("kind") == "unit":
        return case.compare_all(_image_tower(case))
    return _windows(case)


def build(case: Case) -> CorrClip:
    """Our model with the case's settings and seeded weights; its masks are the stored ones."""
    meta = case.meta
    opts = ["MODEL.CLIP.NAME", clip_name(meta["clip"]), "MODEL.CLIP.QUICK_GELU", "on"]
    opts += ["MODEL.FOUNDATION.PRETRAINED", "", "MODEL.MASKS.SOURCE", "superpixels"]
    opts += options(_KEYS, meta.get("config", {}))
    model = seeded_model(case_config("corrclip", opts), case).eval()
    masks = torch.from_numpy(case.arrays["masks"]).long()
    model.masks = lambda _picture, _file_name: masks
    return model


@torch.no_grad()
def _image_tower(case: Case) -> Arrays:
    """The image tower alone, with affinity features that are given by a formula."""
    meta = case.meta
    meta.get("inputs")
    model = build(case)
    images = model.preprocess([{"image": to_tensor(picture(meta["image"]))}])
    grid, channels, seed = (14, 21), 96, meta["weight_seed"]
    common = 12 * seeded_tensor("unit.dino.common", (channels,), seed)
    features = (
        cell_features("unit.dino", channels=channels, grid=grid, mix=1.0, seed=seed) + common[None, :, None, None]
    )
    masks = images.masks[0]
    return {"masks": masks, **_parts(model.corr_tower, images.tensor, unit_patches(features), grid, masks[None])}


def _parts(tower: CorrTower, images: Tensor, unit: Tensor, grid: tuple[int, int], masks: Tensor) -> Arrays:
    """Intermediates of one window."""
    labels = at_grid(masks, grid)
    distances, _ = region_distances(unit[0], labels.flatten())
    first = tower.embed(images)
    merged = tower.regions(unit, grid, masks)
    inside, _ = region_members(merged, first.grid)
    before = tower.blocks[:-1]
    regions, _ = run_region_tokens(before, first, inside)
    patches, _ = run_blocks(before, first)
    branches = tower.branches(images, unit, grid, masks)
    rows = tower.attention(unit, merged)(unit @ unit.transpose(1, 2), 0)
    return {
        "dino_feats": unit,
        "region_at_dino": labels[None],
        "merge_distance": distances,
        "attention": rows[0],
        "tokens0": first.x,
        "before_last": torch.cat([regions, patches.x], dim=1),
        "branch_main": branches.main,
        "branch_spatial": branches.spatial,
        "branch_semantic": branches.semantic,
        "dense": tower.combine(branches) @ tower.visual.proj,
    }


@torch.no_grad()
def _windows(case: Case) -> list[Comparison]:
    meta = case.meta
    model = build(case)
    use_templates(model, meta["templates"])
    size = size_of(meta["image"])
    pixels = resized_picture(meta)
    original = to_tensor(picture(meta["image"]))
    images: Any = model.preprocess([{"image": to_tensor(pixels), "original": original}])
    text = model.embed_vocabulary(Vocabulary(tuple(", ".join(names) for names in meta["class_names"])))
    (encoded,) = model.encode(images)
    prediction = model.decode([encoded], text)
    arrays = {"masks": images.masks[0], **_first_window(model, images, encoded.mosaic, text.rows)}
    arrays |= prediction_arrays(case, prediction, text, images.tensor, size)
    for index, rule in enumerate(meta["post"]):
        again = post_processed(prediction, arrays["cosine_ori"][0], rule)
        raw = super(type(again), again).label_maps([size])[0]
        arrays[f"prob_post{index}"] = again.scores([size])[0]
        corrected = majority_labels(raw, images.masks[0], again.num_classes)
        for name, labels in ((f"argmax_raw_post{index}", raw), (f"argmax_post{index}", corrected)):
            arrays[name] = as_stored(case, name, labels)
    rows = case.compare_all(arrays)
    rows.append(compare_equal("resized", list(pixels.shape[:2]), meta["resized"]))
    rows.append(compare_equal("windows", len(encoded.mosaic.tiles), meta["windows"]))
    return rows


def _first_window(model: CorrClip, images: Any, mosaic: Mosaic, names: Tensor) -> Arrays:
    """Intermediates of the first window, and its similarities at the window's size."""
    image = images.tensor[0]
    window = mosaic.cut(image)[:1]
    size = (image.shape[1], image.shape[2])
    masks = mosaic.cut(fitted_labels(images.masks[0], size)[None] - PADDING)[:1, 0] + PADDING
    unit, grid = model.affinity_features(window)
    arrays = _parts(model.corr_tower, window, unit, grid, masks)
    embeddings = torch.nn.functional.normalize(arrays["dense"], dim=-1).transpose(1, 2).unflatten(2, grid)
    padded = (window.shape[2], window.shape[3])
    alone = Mosaic(tiles=TileGrid.whole(padded)).resampler(grid, padded, image.device)
    return {**arrays, "window_logits": alone(torch.einsum("nd,bdhw->bnhw", names, embeddings))}
