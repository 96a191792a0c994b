"""Runs ProxyCLIP as a reference case says and compares what the case stores."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal
from conformance.inputs import as_stored, resized_picture, size_of
from conformance.proxy import cell_features, describe, post_processed, prediction_arrays, use_templates
from conformance.recording import Arrays
from conformance.seeded import seeded_tensor
from conformance.settings import Table, case_config, clip_name, options, to
from conformance.weights import seeded_model
from twostage.clip.dense.proxy import attend, cosine_similarity, proxy_attention
from twostage.clip.towers.vit import Tokens, run_blocks
from twostage.data.mapper import to_tensor
from twostage.errors import UserError
from twostage.inference.mosaic import Mosaic
from twostage.inference.sliding import TileGrid
from twostage.systems.training_free.dense_clip.model import PatchEmbeddings
from twostage.systems.training_free.proxyclip.model import ProxyClip
from twostage.vocabulary import Vocabulary

SYSTEMS = ("ProxyCLIP",)
# Official name of the foundation model -> our config, and what it is to say.
_FOUNDATIONS = {
    "DINO v1 ViT-B/8": ("proxyclip_dino", ()),
    "DINO v1 ViT-B/16": ("proxyclip_dino", ("MODEL.FOUNDATION.NAME", "dino_vitb16")),
    "DINOv2 ViT-B/14 with 4 registers": ("proxyclip_dinov2", ()),
}
# Whole pictures are neither cut nor padded, and go to the output's size at once.
_WHOLE = (
    *("TEST.SLIDING.ENABLED", "False", "MODEL.TRAINING_FREE.PADDING", "none"),
    *("MODEL.TRAINING_FREE.THROUGH_INPUT_SIZE", "False"),
)
_KEYS: Table = {
    "logit_scale": to("MODEL.TRAINING_FREE.LOGIT_SCALE"),
    "prob_thd": to("MODEL.TRAINING_FREE.PROBABILITY_THRESHOLD"),
    "beta": to("MODEL.PROXYCLIP.BETA"),
    "gamma": to("MODEL.PROXYCLIP.GAMMA"),
    "slide_crop": to("TEST.SLIDING.TILE"),
    "slide_stride": to("TEST.SLIDING.STRIDE"),
}


def check(case: Case) -> list[Comparison]:
    """Compare every array of a ProxyCLIP case with ours."""
    describe(case)
    if case.meta.get("kind") == "unit":
        return case.compare_all(_last_block(case))
    return _windows(case)


@torch.no_grad()
def _last_block(case: Case) -> Arrays:
    """The last block alone, on tokens and features that are given by formulas."""
    meta = case.meta
    meta.get("inputs")
    seed, prefix = meta["weight_seed"], "visual.transformer.resblocks.11.attn."
    attention = nn.MultiheadAttention(768, 12, batch_first=True)
    attention.load_state_dict(
        {name: seeded_tensor(prefix + name, value.shape, seed) for name, value in attention.state_dict().items()}
    )
    x = seeded_tensor("unit.tokens", (50, 1, 768), seed).transpose(0, 1) * 768**0.5
    tokens, block = Tokens(x, (7, 7)), SimpleNamespace(attn=attention, ln_1=nn.Identity())
    features = cell_features("unit.vfm", channels=96, grid=(14, 14), mix=0.8, seed=seed)
    similarity = cosine_similarity(features)
    arrays: Arrays = {"vfm_feats": features, "similarity": similarity}
    for name in case.names:
        if setting := re.fullmatch(r"out_beta([\d.]+)_gamma([\d.]+)", name):
            weights = proxy_attention(similarity, beta=float(setting[1]), gamma=float(setting[2]))
            arrays[name] = attend(block, tokens, weights, (14, 14))
    return arrays


def build(case: Case) -> ProxyClip:
    """Our model with the case's settings and seeded weights."""
    meta = case.meta
    if meta["vfm_checkpoint"] not in _FOUNDATIONS:
        raise UserError(f"case '{case.path}' runs {meta['vfm_checkpoint']!r}; known here: {', '.join(_FOUNDATIONS)}")
    opts = ["MODEL.CLIP.NAME", clip_name(meta["clip"]), "MODEL.CLIP.QUICK_GELU", "on"]
    config, foundation = _FOUNDATIONS[meta["vfm_checkpoint"]]
    opts += [*foundation, "MODEL.FOUNDATION.PRETRAINED", ""]
    settings = dict(meta["config"])
    if settings.get("slide_crop") == 0:
        opts += _WHOLE
        del settings["slide_crop"], settings["slide_stride"]
    model = seeded_model(case_config(config, [*opts, *options(_KEYS, settings)]), case).eval()
    use_templates(model, meta["templates"])
    return model


@torch.no_grad()
def _windows(case: Case) -> list[Comparison]:
    meta = case.meta
    model = build(case)
    size = size_of(meta["image"])
    pixels = resized_picture(meta)
    images = model.preprocess([{"image": to_tensor(pixels)}])
    text = model.embed_vocabulary(Vocabulary(tuple(", ".join(names) for names in meta["class_names"])))
    (encoded,) = model.encode(images)
    prediction = model.decode([encoded], text)
    arrays = _first_window(model, encoded, images.tensor, text.rows)
    arrays |= prediction_arrays(case, prediction, text, images.tensor, size)
    for index, rule in enumerate(meta["post"]):
        again = post_processed(prediction, arrays["cosine_ori"][0], rule)
        arrays[f"prob_post{index}"] = again.scores([size])[0]
        arrays[f"argmax_post{index}"] = as_stored(case, f"argmax_post{index}", again.label_maps([size])[0])
    rows = case.compare_all(arrays)
    rows.append(compare_equal("resized", list(pixels.shape[:2]), meta["resized"]))
    rows.append(compare_equal("windows", len(encoded.mosaic.tiles), meta["windows"]))
    return rows


def _first_window(model: ProxyClip, encoded: PatchEmbeddings, images: Tensor, names: Tensor) -> Arrays:
    """Intermediates of the first window, and its similarities at the padded window's size."""
    tower: Any = model.tower
    window = encoded.mosaic.cut(images[0])[:1]
    first = tower.embed(window)
    tokens, _ = run_blocks(tower.blocks[:-1], first)
    features = tower.features(window, tokens)
    similarity = cosine_similarity(features)
    attention = proxy_attention(similarity, beta=tower.beta, gamma=tower.gamma)
    grid = (features.shape[2], features.shape[3])
    last = attend(tower.blocks[-1], tokens, attention, grid)
    dense = tower.project(Tokens(last, grid, class_tokens=0))
    unit = nn.functional.normalize(dense.patch_map, dim=1)
    padded = (window.shape[2], window.shape[3])
    alone = Mosaic(tiles=TileGrid.whole(padded)).resampler(grid, padded, images.device)
    return {
        "tokens0": first.x,
        "before_last": tokens.x,
        "vfm_feats": features,
        "similarity": similarity,
        "attention": attention[0],
        "last_block": last,
        "dense": dense.x,
        "window_logits": alone(torch.einsum("nd,bdhw->bnhw", names, unit)),
    }
