"""Runs MaskCLIP as a reference case says and compares what the case stores."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison
from conformance.inputs import as_stored, picture, size_of
from conformance.recording import Arrays
from conformance.systems.training_free import build
from twostage.clip.towers.resnet import resnet_dense, run_resnet
from twostage.clip.towers.vit import Tokens, merge_heads, project_qkv, run_block, run_blocks
from twostage.data.augmentation import ResizeWithin
from twostage.data.mapper import to_tensor
from twostage.data.views import dataset_info, with_class_names
from twostage.errors import UserError
from twostage.systems.training_free.dense_clip.model import TrainingFree
from twostage.vocabulary import Vocabulary

SYSTEMS = ("MaskCLIP",)
_TOWERS = {"vit16": "maskclip_vitb", "r50": "maskclip_r50", "r50x16": "maskclip_r50x16"}
# MaskCLIP's benchmarks by their number of classes.
_BENCHMARKS = {
    19: "cityscapes_val",
    20: "pascal_voc_20_val",
    59: "pascal_context_59_val",
    150: "ade20k_150_val",
    171: "coco_stuff_val",
}


@torch.no_grad()
def check(case: Case) -> list[Comparison]:
    """Compare every array of a MaskCLIP case with ours, under each setting of the refinements."""
    meta = case.meta
    tower = re.match(r"maskclip_([a-z0-9]+)_", meta["config"])
    if tower is None or tower[1] not in _TOWERS:
        raise UserError(f"the case's config {meta['config']!r} is none of maskclip_{', maskclip_'.join(_TOWERS)}")
    model = build(case, _TOWERS[tower[1]], [])
    model.tower.with_keys = True
    size = size_of(meta["image"])
    pixels = picture(meta["image"])
    if scale := re.search(r"img_scale \((\d+), (\d+)\)", meta["fed"]):
        resize = ResizeWithin(long=int(scale[1]), short=int(scale[2]))
        pixels = resize.get_transform(pixels).apply_image(pixels)
    images = model.preprocess([{"image": to_tensor(pixels)}])
    text = model.embed_vocabulary(_vocabulary(case))
    (encoded,) = model.encode(images)
    arrays = _features(model, encoded.mosaic.cut(images.tensor[0]))
    arrays |= {"input": images.tensor, "text_features": text.rows}
    arrays["k"] = None if encoded.keys is None else encoded.keys[None]
    arrays["cosine"] = model.similarities(encoded, text.rows)[None]
    plain = {"plain": {"ks_thresh": 0.0, "pd_thresh": 0.0}}
    for name, settings in meta.get("refinement_settings", plain).items():
        suffix = "" if name == "plain" else name
        model.key_smoothing, model.prompt_denoising = settings["ks_thresh"], settings["pd_thresh"]
        prediction = model.decode([encoded], text)
        arrays[f"refined{suffix}"] = prediction.images[0].maps[:, :][None]
        arrays[f"sem_seg{suffix}"] = prediction.similarities(0, size)[None]
        arrays[f"prob{suffix}"] = prediction.scores([size])[0][None]
        arrays[f"argmax{suffix}"] = as_stored(case, f"argmax{suffix}", prediction.label_maps([size])[0])
    return case.compare_all(arrays)


def _features(model: TrainingFree, images: Tensor) -> Arrays:
    """Intermediates that the cases store, from padded network inputs `[1, 3, H, W]`."""
    tower, visual = model.tower, model.clip.visual
    if not hasattr(visual, "transformer"):
        x = run_resnet(visual, images)
        return {"x": x, "dense": resnet_dense(visual, x)}
    tokens, _ = run_blocks(tower.blocks[:-1], tower.embed(images))
    block: Any = tower.blocks[-1]

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


def _vocabulary(case: Case) -> Vocabulary:
    """The case's class names, or MaskCLIP's own class list of its benchmark, which the number of classes tells."""
    case.told("class_set")
    if "class_names" in case.meta:
        return Vocabulary.published([_joined(entry) for entry in case.meta["class_names"]])
    count = case.shape("text_features")[0] if "text_features" in case.names else 0
    if count not in _BENCHMARKS:
        raise UserError(f"case '{case.path}' has {count} classes, as none of MaskCLIP's benchmarks, and no class_names")
    return Vocabulary.of(with_class_names(dataset_info(_BENCHMARKS[count]), "maskclip"))


def _joined(entry: str | list[str]) -> str:
    return entry if isinstance(entry, str) else ", ".join(entry)
