"""Runs training-free systems as a reference case says and hands out the same arrays that the case stores."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from conformance.case import Case, Comparison, load_seeded
from conformance.seeded import seeded_image
from twostage.clip.dense.attentions import neighbourhood_bias
from twostage.clip.dense.tower import Method
from twostage.clip.towers.resnet import resnet_dense, run_resnet
from twostage.clip.towers.vit import Tokens, merge_heads, project_qkv, resize_position_embedding, run_block, run_blocks
from twostage.config import load_config
from twostage.data.augmentation import ResizeWithin
from twostage.data.mapper import to_tensor
from twostage.data.views import dataset_info, with_class_names
from twostage.errors import UserError
from twostage.inference.mosaic import Mosaic
from twostage.inference.sliding import Size, TileGrid
from twostage.systems.building import build_model
from twostage.systems.training_free.dense_clip.model import EncodedImage, TrainingFree
from twostage.systems.training_free.dense_clip.prediction import ImageMaps, LabelRule, NamePrediction
from twostage.vocabulary import Vocabulary

_ROOT = Path(__file__).parents[2]
# NACLIP's names of attentions.
_STRATEGIES = {"nonly": "neighbourhood", "kk": "key_key", "csa": "sclip"}
_SEEDED = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", ""]


def check(case: Case) -> list[Comparison]:
    """Compare every array of a SCLIP, NACLIP or MaskCLIP case with ours."""
    system = case.meta["system"].partition(" repo ")[0]
    if system == "MaskCLIP":
        arrays = _maskclip(case)
    elif case.meta["system"] != system:
        arrays = _variants(case)
    else:
        arrays = _windows(case, system)
    return [case.compare(name, arrays[name]) for name in case.names]


def _build(case: Case, config: str, opts: list[str]) -> TrainingFree:
    cfg = load_config(str(_ROOT / "configs" / config), [*_SEEDED, *opts])
    # Weights come from the seed, so what they were trained with can't be read off a tag.
    cfg.MODEL.CLIP.QUICK_GELU = "on"
    model = build_model(cfg).eval()
    load_seeded(model, model.checkpoint_table(), {"weight_seed": case.meta["weight_seed"]})
    return model


def _image(meta: dict[str, Any], scale: tuple[int, int] | None = None) -> np.ndarray:
    entry = meta["image"]
    image = seeded_image(entry["height"], entry["width"], entry["seed"])
    return (
        image if scale is None else ResizeWithin(long=scale[0], short=scale[1]).get_transform(image).apply_image(image)
    )


# --- one block's variants -----------------------------------------------------------------------------------------


@torch.no_grad()
def _variants(case: Case) -> dict[str, Any]:
    """Dense features of every attention, with and without residual and MLP."""
    model = _build(case, "naclip_vitb.yaml", ["MODEL.CLIP.NAME", case.meta["clip"]])
    images = model.preprocess([{"image": to_tensor(_image(case.meta))}]).tensor
    tower, visual = model.tower, model.clip.visual
    first = tower.embed(images)
    tokens, _ = run_blocks(tower.blocks[:-1], first)
    grid = first.grid
    position = resize_position_embedding(visual.positional_embedding, grid, tower.position_rule)
    window = neighbourhood_bias((2 * grid[0] - 1, 2 * grid[1] - 1), 5.0, class_token=False)
    middle = (grid[0] - 1) * (2 * grid[1] - 1) + grid[1] - 1
    arrays: dict[str, Any] = {
        "pos_embed": position.view(_shape(case, "pos_embed")),
        "gaussian_window": window[middle].view(2 * grid[0] - 1, 2 * grid[1] - 1),
        "attention_addition": neighbourhood_bias(grid, 5.0),
    }
    for name in case.names:
        parts = re.fullmatch(r"dense_(reduced|vanilla)_([a-z]+?)(?:_std([\d.]+))?", name)
        if parts:
            tower.gaussian_std, tower.full = float(parts[3] or 5), parts[1] == "vanilla"
            tower.method = cast(Method, _STRATEGIES.get(parts[2], parts[2]))
            arrays[name] = tower.project(tower.run_last(tokens)).x
    arrays["cls_vanilla"] = tower.project(tokens._replace(x=run_block(tower.blocks[-1], tokens.x))).x[:, 0]
    return arrays


def _shape(case: Case, name: str) -> tuple[int, ...]:
    return tuple(case.arrays[name].shape if name in case.arrays else case.arrays[f"{name}__shape"].tolist())


# --- SCLIP and NACLIP ---------------------------------------------------------------------------------------------

_KEYS = {
    "logit_scale": "MODEL.TRAINING_FREE.LOGIT_SCALE",
    "prob_thd": "MODEL.TRAINING_FREE.PROBABILITY_THRESHOLD",
    "area_thd": "MODEL.TRAINING_FREE.AREA_THRESHOLD",
    "pamr_steps": "MODEL.TRAINING_FREE.PAMR_STEPS",
    "pamr_stride": "MODEL.TRAINING_FREE.PAMR_DILATIONS",
    "gaussian_std": "MODEL.TRAINING_FREE.GAUSSIAN_STD",
    "slide_crop": "TEST.SLIDING.TILE",
    "slide_stride": "TEST.SLIDING.STRIDE",
}


@torch.no_grad()
def _windows(case: Case, system: str) -> dict[str, Any]:
    meta = case.meta
    model = _build(case, f"{system.lower()}_vitb.yaml", ["MODEL.CLIP.NAME", meta["clip"], *_overrides(meta, system)])
    entry = meta["image"]
    size = (entry["height"], entry["width"])
    images = model.preprocess([{"image": to_tensor(_image(meta, tuple(meta["resize_scale"])))}])
    text = model.embed_vocabulary(Vocabulary(tuple(", ".join(names) for names in meta["class_names"])))
    (encoded,) = model.encode(images)
    prediction = model.decode([encoded], text)
    plain = dataclasses.replace(prediction, pamr_steps=0)
    canvas = encoded.mosaic.tiles.canvas
    arrays = _first_window(model, encoded, images.tensor, text.rows, case.names)
    arrays |= {
        "text_features": text.rows,
        "query_idx": text.classes,
        "input": images.tensor,
        "cosine_net": plain.similarities(0, canvas)[None],
        "cosine_ori": plain.similarities(0, size)[None],
        "cosine_pamr": prediction.similarities(0, size)[None],
        "sem_seg": prediction.scores([size])[0],
        "argmax": prediction.label_maps([size])[0][::4, ::4],
    }
    final = arrays["cosine_pamr"][0]
    for name in case.names:
        if name.startswith("sem_seg_post"):
            rule = ast.literal_eval(re.search(r"\{.*\}", meta["arrays"][name]["what"])[0])  # type: ignore[index]
            again = _post_processing(prediction, final, rule)
            arrays[name] = again.scores([size])[0]
            arrays[name.replace("sem_seg", "argmax")] = again.label_maps([size])[0][::4, ::4]
    return arrays


def _overrides(meta: dict[str, Any], system: str) -> list[str]:
    config: dict[str, Any] = dict(meta["config"])
    opts: list[str] = []
    if config.get("slide_crop") == 0:
        del config["slide_crop"]
        opts += ["TEST.SLIDING.ENABLED", "False"]
        if system == "SCLIP":
            # Its whole-image path resizes once and never refines.
            config.pop("pamr_steps", None)
            opts += ["MODEL.TRAINING_FREE.THROUGH_INPUT_SIZE", "False", "MODEL.TRAINING_FREE.PAMR_STEPS", "0"]
    if config.pop("pamr", None) is False:
        config["pamr_steps"] = 0
    if "arch" in config:
        reduced = config.pop("arch") == "reduced"
        opts += ["MODEL.TRAINING_FREE.LAST_BLOCK", "reduced" if reduced else "full"]
    strategy = config.pop("attn_strategy", "")
    if strategy:
        opts += ["MODEL.TRAINING_FREE.METHOD", _STRATEGIES.get(strategy, strategy)]
    unknown = sorted(set(config) - set(_KEYS))
    if unknown:
        raise UserError(f"the case's config has {unknown[0]!r}, which this check does not know")
    for name, value in config.items():
        opts += [_KEYS[name], str(value if value is not None else 0)]
    return opts


def _first_window(
    model: TrainingFree, encoded: EncodedImage, images: Tensor, rows: Tensor, names: list[str]
) -> dict[str, Any]:
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


# --- MaskCLIP -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def _maskclip(case: Case) -> dict[str, Any]:
    meta = case.meta
    variant = re.match(r"maskclip_(vit16|r50x16|r50)_", meta["config"])
    if variant is None:
        raise UserError(f"the case's config {meta['config']!r} is none of maskclip_vit16, _r50, _r50x16")
    config = {"vit16": "vitb", "r50": "r50", "r50x16": "r50x16"}[variant[1]]
    model = _build(case, f"maskclip_{config}.yaml", [])
    model.tower.with_keys = True
    entry = meta["image"]
    size = (entry["height"], entry["width"])
    long, short = re.search(r"img_scale \((\d+), (\d+)\)", meta["fed"]).groups()  # type: ignore[union-attr]
    images = model.preprocess([{"image": to_tensor(_image(meta, (int(long), int(short))))}])
    text = model.embed_vocabulary(_maskclip_vocabulary(case))
    (encoded,) = model.encode(images)
    arrays = _maskclip_features(model, encoded.mosaic.cut(images.tensor[0]))
    arrays |= {"input": images.tensor, "text_features": text.rows, "k": encoded.keys[None]}  # type: ignore[index]
    arrays["cosine"] = model.similarities(encoded, text.rows)[None]
    for suffix, settings in meta["refinement_settings"].items():
        suffix = "" if suffix == "plain" else suffix
        model.key_smoothing, model.prompt_denoising = settings["ks_thresh"], settings["pd_thresh"]
        prediction = model.decode([encoded], text)
        arrays[f"refined{suffix}"] = prediction.images[0].maps[:, :][None]
        arrays[f"sem_seg{suffix}"] = prediction.similarities(0, size)[None]
        arrays[f"prob{suffix}"] = prediction.scores([size])[0][None]
        arrays[f"argmax{suffix}"] = prediction.label_maps([size])[0][::4, ::4]
    return arrays


def _maskclip_features(model: TrainingFree, images: Tensor) -> dict[str, Any]:
    """Intermediates that the cases store, from padded network inputs `[1, 3, H, W]`."""
    tower, visual = model.tower, model.clip.visual
    if not hasattr(visual, "transformer"):
        x = run_resnet(visual, images)
        return {"x": x, "dense": resnet_dense(visual, x)}
    tokens, _ = run_blocks(tower.blocks[:-1], tower.embed(images))
    block = tower.blocks[-1]

    def map_of(x: Tensor) -> Tensor:
        return Tokens(visual.ln_post(x), tokens.grid).patch_map

    value = tower.run_last(tokens)
    (query,) = project_qkv(block.attn, block.ln_1(tokens.x), "q")
    return {
        "x": map_of(run_block(block, tokens.x)),
        "q": block.attn.out_proj(merge_heads(query))[:, 1:],
        "v": map_of(value.x),
        "dense": tower.project(value).patch_map,
    }


# MaskCLIP's benchmarks by their number of classes.
_BENCHMARKS = {
    19: "cityscapes_val",
    20: "pascal_voc_20_val",
    59: "pascal_context_59_val",
    150: "ade20k_150_val",
    171: "coco_stuff_val",
}


def _maskclip_vocabulary(case: Case) -> Vocabulary:
    """MaskCLIP's own class list of the case's benchmark."""
    count = _shape(case, "text_features")[0]
    if count not in _BENCHMARKS:
        raise UserError(f"the case has {count} classes, as none of MaskCLIP's benchmarks")
    return Vocabulary.of(with_class_names(dataset_info(_BENCHMARKS[count]), "maskclip"))
