"""Runs Talk2DINO as a reference case says and compares what the case stores."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal
from conformance.inputs import as_stored, resized_picture, size_of
from conformance.proxy import describe
from conformance.recording import Arrays
from conformance.settings import Table, case_config, clip_name, only, options, to
from conformance.weights import seeded_model
from twostage.data.mapper import to_tensor
from twostage.inference.mosaic import Mosaic
from twostage.inference.sliding import TileGrid
from twostage.systems.training_free.dense_clip.prediction import ImageMaps
from twostage.systems.training_free.talk2dino.model import Talk2Dino, WindowFeatures
from twostage.vocabulary import Vocabulary

SYSTEMS = ("Talk2DINO",)
_KEYS: Table = {
    "resize_dim": to("MODEL.TALK2DINO.WINDOW_SIDE"),
    "crop": to("TEST.SLIDING.TILE"),
    "stride": to("TEST.SLIDING.STRIDE"),
    "bg_thresh": to("MODEL.TALK2DINO.BACKGROUND_SCORE"),
    "lambda_bg": to("MODEL.TALK2DINO.CLEANING"),
    "pamr": lambda on: [] if on else [("MODEL.TALK2DINO.PAMR_STEPS", 0)],
    "template": only("sub_imagenet_template (7)"),
    # A head's width to the power of -1/2.
    "scale": only(0.125),
}


def check(case: Case) -> list[Comparison]:
    """Compare every array of a Talk2DINO case with ours."""
    describe(case)
    return _windows(case)


def build(case: Case) -> Talk2Dino:
    """Our model with the case's settings and seeded weights."""
    meta = case.meta
    settings = dict(meta["config"])
    if not settings.pop("with_bg"):
        settings["bg_thresh"] = 0.0
    if not settings.pop("with_bg_clean"):
        settings["lambda_bg"] = 0.0
    opts = ["MODEL.CLIP.NAME", clip_name(meta["clip"]), "MODEL.CLIP.QUICK_GELU", "on"]
    opts += ["MODEL.FOUNDATION.PRETRAINED", "", *options(_KEYS, settings)]
    return seeded_model(case_config("talk2dino_vitb", opts), case).eval()


@torch.no_grad()
def _windows(case: Case) -> list[Comparison]:
    meta = case.meta
    model = build(case)
    size = size_of(meta["image"])
    pixels = resized_picture(meta)
    background = ("background",) if model.background_score else ()
    text = model.embed_vocabulary(Vocabulary((*background, *meta["class_names"])))
    (encoded,) = model.encode(model.preprocess([{"image": to_tensor(pixels)}]))
    prediction = model.decode([encoded], text)
    scores = prediction.similarities(0, size)
    arrays = _first_window(model, encoded, text.rows)
    arrays |= {
        "text_embedding": text.rows,
        "net": prediction.similarities(0, encoded.mosaic.tiles.canvas)[None],
        "sem_seg": scores[None],
        "argmax": as_stored(case, "argmax", prediction.label_maps([size])[0]),
    }
    # Random weights let one class win everywhere: labels are compared on other scores as well.
    changed = scores.clone()
    if "post" in meta:
        (rule,) = meta["post"]
        changed[0] = rule["bg_thresh"]
    else:
        changed -= changed.mean(dim=(1, 2), keepdim=True)
    whole = Mosaic(tiles=TileGrid.whole((size[0], size[1])))
    again = dataclasses.replace(prediction, images=[ImageMaps(changed, whole)])
    arrays["argmax_post0"] = as_stored(case, "argmax_post0", again.label_maps([size])[0])
    rows = case.compare_all(arrays)
    rows.append(compare_equal("resized", list(pixels.shape[:2]), meta["resized"]))
    rows.append(compare_equal("windows", len(encoded.mosaic.tiles), meta["windows"]))
    return rows


def _first_window(model: Talk2Dino, encoded: WindowFeatures, text: Tensor) -> Arrays:
    """Intermediates of the first window."""
    features = encoded.features[:1]
    scores = model.window_scores(encoded, 0, text)
    unit = torch.nn.functional.normalize(features, dim=1)
    window = encoded.pixels[0]
    fine = torch.nn.functional.interpolate(
        scores[None], size=tuple(window.shape[1:]), mode="bilinear", align_corners=True
    )
    return {
        "net_in": model.as_seen(encoded.pixels[:1]),
        "patch_tokens": features.flatten(2).transpose(1, 2),
        "attn_maps": encoded.attention[:1],
        "simmap": torch.einsum("nd,bdhw->bnhw", text, unit),
        "cleaned": scores[None],
        "window_mask": fine,
        "window_pamr": model.refined(scores, window)[None] if model.pamr_steps else None,
    }
