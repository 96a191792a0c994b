"""Runs CLIP-DINOiser as a reference case says and compares what the case stores."""

from __future__ import annotations

import dataclasses

import torch

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal
from conformance.inputs import as_stored, resized_picture, size_of
from conformance.proxy import describe, use_templates
from conformance.recording import Arrays
from conformance.settings import Table, case_config, clip_name, first_word, only, options, to
from conformance.weights import seeded_model
from twostage.data.mapper import to_tensor
from twostage.inference.mosaic import Mosaic
from twostage.inference.sliding import TileGrid
from twostage.systems.training_free.clip_dinoiser.guide import TAPPED_BLOCK, pool
from twostage.systems.training_free.clip_dinoiser.model import ClipDinoiser, GuidedEmbeddings
from twostage.systems.training_free.dense_clip.prediction import ImageMaps
from twostage.vocabulary import Vocabulary

SYSTEMS = ("CLIP-DINOiser",)
_KEYS: Table = {
    "gamma": to("MODEL.CLIP_DINOISER.GAMMA"),
    "delta": to("MODEL.CLIP_DINOISER.DELTA"),
    "in_dim": to("MODEL.CLIP_DINOISER.WIDTH"),
    "softmax_scale": to("MODEL.CLIP_DINOISER.LOGIT_SCALE"),
    "slide_crop": to("TEST.SLIDING.TILE"),
    "slide_stride": to("TEST.SLIDING.STRIDE"),
    # Which block is read.
    "feats_idx": only(TAPPED_BLOCK),
}


def check(case: Case) -> list[Comparison]:
    """Compare every array of a CLIP-DINOiser case with ours."""
    describe(case)
    return _windows(case)


def build(case: Case) -> ClipDinoiser:
    """Our model with the case's settings and seeded weights."""
    meta = case.meta
    opts = ["MODEL.CLIP.NAME", clip_name(first_word(meta["clip"])), "MODEL.CLIP.QUICK_GELU", "off"]
    opts += ["MODEL.CLIP_DINOISER.BACKGROUND", str(meta["apply_found"]), *options(_KEYS, meta["config"])]
    model = seeded_model(case_config("clip_dinoiser", opts), case).eval()
    use_templates(model, meta["templates"])
    return model


@torch.no_grad()
def _windows(case: Case) -> list[Comparison]:
    meta = case.meta
    model = build(case)
    size = size_of(meta["image"])
    pixels = resized_picture(meta)
    images = model.preprocess([{"image": to_tensor(pixels)}])
    text = model.embed_vocabulary(Vocabulary(tuple(meta["class_names"])))
    (encoded,) = model.encode(images)
    prediction = model.decode([encoded], text)
    canvas = encoded.mosaic.tiles.canvas
    scores = prediction.similarities(0, size)
    centred = scores - scores.mean(dim=(1, 2), keepdim=True)
    again = dataclasses.replace(
        prediction, images=[ImageMaps(centred, Mosaic(tiles=TileGrid.whole((size[0], size[1]))))]
    )
    arrays = _first_window(model, encoded, images.pixels[0], text)
    arrays |= {
        "class_embeddings": text,
        "input": images.pixels[0][None] / 255,
        "net": prediction.similarities(0, canvas)[None],
        "sem_seg": scores[None],
        "argmax": as_stored(case, "argmax", prediction.label_maps([size])[0]),
        "argmax_post0": as_stored(case, "argmax_post0", again.label_maps([size])[0]),
    }
    rows = case.compare_all(arrays)
    rows.append(compare_equal("resized", list(pixels.shape[:2]), meta["resized"]))
    rows.append(compare_equal("windows", len(encoded.mosaic.tiles), meta["windows"]))
    return rows


def _first_window(model: ClipDinoiser, encoded: GuidedEmbeddings, pixels: torch.Tensor, text: torch.Tensor) -> Arrays:
    """Intermediates of the first window, and its class probabilities with and without the background's rule."""
    window = model.units(encoded.mosaic.cut(pixels.float())[:1])
    maps = model.read_windows(window)
    tapped = maps.tapped.patch_map
    correlations = model.head.correlations(tapped)
    pooled = pool(maps.features, correlations, model.gamma)
    logits = model.head.background_logits(tapped)
    alone = GuidedEmbeddings(
        torch.nn.functional.normalize(pooled, dim=1)[0],
        Mosaic(tiles=TileGrid.whole((window.shape[2], window.shape[3]))),
        logits[0, 0] <= 0,
    )
    (image,) = model.decode([alone], text).images
    return {
        "tokens0": model.tower.embed(window).x,
        "before_last": maps.before_last.x,
        "inter": maps.tapped.x,
        "clip_feats": maps.features,
        "corrs": correlations.unflatten(2, maps.tapped.grid),
        "background_logit": logits,
        "pooled": pooled,
        "window_prob": model.probabilities(alone, text)[None],
        "window_out": image.maps[:, :][None],
    }
