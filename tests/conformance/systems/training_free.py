"""Runs SCLIP and NACLIP as a reference case says and compares what the case stores."""

from __future__ import annotations

import ast
import dataclasses
import re
from typing import Any, cast

import torch
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal
from conformance.formulas import found
from conformance.inputs import as_stored, picture, size_of
from conformance.recording import Arrays
from conformance.settings import Table, case_config, choice, clip_name, options, pairs, to
from conformance.weights import seeded_model
from twostage.clip.dense.attentions import neighbourhood_bias
from twostage.clip.keys import DenseMethod
from twostage.clip.towers.vit import resize_position_embedding, run_block, run_blocks
from twostage.data.augmentation import ResizeWithin
from twostage.data.mapper import to_tensor
from twostage.errors import UserError
from twostage.inference.mosaic import Mosaic
from twostage.inference.resampling import Size
from twostage.inference.sliding import TileGrid
from twostage.systems.training_free.dense_clip.model import PatchEmbeddings, TrainingFree
from twostage.systems.training_free.dense_clip.prediction import ImageMaps, LabelRule, NamePrediction
from twostage.vocabulary import Vocabulary

SYSTEMS = ("SCLIP", "NACLIP")
# NACLIP's names of attentions.
_STRATEGIES: dict[str, str] = {
    "naclip": "naclip",
    "nonly": "neighbourhood",
    "kk": "key_key",
    "csa": "sclip",
    "vanilla": "vanilla",
}
_FREE = "MODEL.TRAINING_FREE."
_KEYS: Table = {
    "logit_scale": to(f"{_FREE}LOGIT_SCALE"),
    "prob_thd": to(f"{_FREE}PROBABILITY_THRESHOLD"),
    "area_thd": to(f"{_FREE}AREA_THRESHOLD", convert=lambda value: value or 0.0),
    "pamr_steps": to(f"{_FREE}PAMR_STEPS"),
    "pamr_stride": to(f"{_FREE}PAMR_DILATIONS"),
    "gaussian_std": to(f"{_FREE}GAUSSIAN_STD"),
    "arch": choice(f"{_FREE}LAST_BLOCK", {"reduced": "reduced", "vanilla": "full"}),
    "attn_strategy": choice(f"{_FREE}METHOD", _STRATEGIES),
    "slide_crop": to("TEST.SLIDING.TILE"),
    "slide_stride": to("TEST.SLIDING.STRIDE"),
}


def check(case: Case) -> list[Comparison]:
    """Compare every array of a SCLIP or NACLIP case with ours."""
    # How pictures and names are fed is the published way throughout.
    case.told("fed", "text", "class_file")
    if " repo " in case.meta["system"]:
        return case.compare_all(_variants(case))
    return _windows(case, case.meta["system"])


def build(case: Case, config: str, opts: list[str]) -> TrainingFree:
    """Our model of a config, seeded. Weights come from the seed, so what they were trained with can't be read off a tag."""
    return seeded_model(case_config(config, [*opts, "MODEL.CLIP.QUICK_GELU", "on"]), case).eval()


@torch.no_grad()
def _variants(case: Case) -> Arrays:
    """Dense features of every attention, with and without residual and MLP."""
    std = float(found(r"([\d.]+)", case.meta.get("gaussian_std", "5"), "the standard deviation")[1])
    model = build(case, "naclip_vitb", ["MODEL.CLIP.NAME", clip_name(case.meta["clip"])])
    images = model.preprocess([{"image": to_tensor(picture(case.meta["image"]))}]).tensor
    tower, visual = model.tower, model.clip.visual
    first = tower.embed(images)
    tokens, _ = run_blocks(tower.blocks[:-1], first)
    grid = first.grid
    position = resize_position_embedding(visual.positional_embedding, grid, tower.position_rule)
    window = neighbourhood_bias((2 * grid[0] - 1, 2 * grid[1] - 1), std, class_token=False)
    middle = (grid[0] - 1) * (2 * grid[1] - 1) + grid[1] - 1
    arrays: Arrays = {
        "pos_embed": position.view(case.shape("pos_embed")) if "pos_embed" in case.names else None,
        "gaussian_window": window[middle].view(2 * grid[0] - 1, 2 * grid[1] - 1),
        "attention_addition": neighbourhood_bias(grid, std),
    }
    for name in case.names:
        parts = re.fullmatch(r"dense_(reduced|vanilla)_([a-z]+?)(?:_std([\d.]+))?", name)
        if parts and parts[2] in _STRATEGIES:
            tower.gaussian_std, tower.full = float(parts[3] or std), parts[1] == "vanilla"
            tower.method = cast(DenseMethod, _STRATEGIES[parts[2]])
            arrays[name] = tower.project(tower.run_last(tokens)).x
    arrays["cls_vanilla"] = tower.project(tokens._replace(x=run_block(tower.blocks[-1], tokens.x))).x[:, 0]
    return arrays


@torch.no_grad()
def _windows(case: Case, system: str) -> list[Comparison]:
    meta = case.meta
    model = build(case, f"{system.lower()}_vitb", ["MODEL.CLIP.NAME", clip_name(meta["clip"]), *_options(meta, system)])
    size = size_of(meta["image"])
    long, short = meta["resize_scale"]
    pixels = picture(meta["image"])
    pixels = ResizeWithin(long=long, short=short).get_transform(pixels).apply_image(pixels)
    images = model.preprocess([{"image": to_tensor(pixels)}])
    text = model.embed_vocabulary(Vocabulary(tuple(", ".join(names) for names in meta["class_names"])))
    (encoded,) = model.encode(images)
    prediction = model.decode([encoded], text)
    plain = dataclasses.replace(prediction, pamr_steps=0)
    arrays = _first_window(model, encoded, images.tensor, text.rows, case.names)
    arrays |= {
        "text_features": text.rows,
        "query_idx": text.classes,
        "input": images.tensor,
        "cosine_net": plain.similarities(0, encoded.mosaic.tiles.canvas)[None],
        "cosine_ori": plain.similarities(0, size)[None],
        "cosine_pamr": prediction.similarities(0, size)[None],
        "sem_seg": prediction.scores([size])[0],
        "argmax": as_stored(case, "argmax", prediction.label_maps([size])[0]),
    }
    final = arrays["cosine_pamr"][0]
    for name in case.names:
        if name.startswith("sem_seg_post"):
            rule = ast.literal_eval(found(r"(\{.*\})", meta["arrays"][name]["what"], "the post-processing")[1])
            again = _post_processing(prediction, final, rule)
            labels = name.replace("sem_seg", "argmax")
            arrays[name] = again.scores([size])[0]
            arrays[labels] = as_stored(case, labels, again.label_maps([size])[0])
    rows = case.compare_all(arrays)
    if "resized" in meta:
        rows.append(compare_equal("resized", list(pixels.shape[:2]), meta["resized"]))
    return rows


def _options(meta: Any, system: str) -> list[str]:
    settings = {key: value for key, value in pairs(meta["config"], meta.get("overrides")).items() if value is not None}
    opts: list[str] = []
    if settings.get("slide_crop") == 0:
        del settings["slide_crop"]
        settings.pop("slide_stride", None)
        opts += ["TEST.SLIDING.ENABLED", "False"]
        if system == "SCLIP":
            # Its whole-image path resizes once and never refines.
            settings.pop("pamr_steps", None)
            opts += [f"{_FREE}THROUGH_INPUT_SIZE", "False", f"{_FREE}PAMR_STEPS", "0"]
    if settings.pop("pamr", None) is False:
        settings["pamr_steps"] = 0
    if settings.get("attn_strategy") == "":
        del settings["attn_strategy"]
    return [*opts, *options(_KEYS, settings)]


def _first_window(
    model: TrainingFree, encoded: PatchEmbeddings, images: Tensor, rows: Tensor, names: list[str]
) -> Arrays:
    """Intermediates of the first window, and its similarities at the window's size."""
    tower, blocks = model.tower, model.tower.blocks
    window = encoded.mosaic.cut(images[0])[:1]
    taps = {int(name[5:]) + 1 for name in names if re.fullmatch(r"block\d+", name)}
    first = tower.embed(window)
    tokens, tapped = run_blocks(blocks[:-1], first, taps)
    last = tower.run_last(tokens)
    dense = tower.project(last)
    unit = torch.nn.functional.normalize(dense.patch_map, dim=1)
    size = encoded.mosaic.tiles.tile
    alone = Mosaic(tiles=TileGrid.whole(size)).resampler(dense.grid, size, images.device)
    return {
        "tokens0": first.x,
        **{f"block{index - 1}": value.x for index, value in tapped.items()},
        f"block{len(blocks) - 1}": last.x,
        "dense": dense.x,
        "window_logits": alone(torch.einsum("nd,bdhw->bnhw", rows, unit)),
    }


def _post_processing(prediction: NamePrediction, maps: Tensor, rule: dict[str, Any]) -> NamePrediction:
    """The decision alone, on similarities `[N, height, width]` at the output size, with the case's constants."""
    if unknown := sorted(set(rule) - {"center", "logit_scale", "prob_thd", "area_thd"}):
        raise UserError(f"the case's post-processing has {unknown[0]!r}, which is not known here")
    if rule.get("center"):
        maps = maps - maps.mean(dim=(1, 2), keepdim=True)
    size: Size = (maps.shape[-2], maps.shape[-1])
    return dataclasses.replace(
        prediction,
        images=[ImageMaps(maps, Mosaic(tiles=TileGrid.whole(size)))],
        rule=LabelRule(
            logit_scale=rule["logit_scale"],
            probability_threshold=rule.get("prob_thd", 0.0),
            area_threshold=rule.get("area_thd") or 0.0,
            renormalise=prediction.rule.renormalise,
        ),
        pamr_steps=0,
    )
