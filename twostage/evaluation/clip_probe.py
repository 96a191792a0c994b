"""Measuring a tiny CLIP on toybox pictures: zero-shot accuracy, dense baseline, recognition of given regions.

Analysis only: the true masks used here are never seen in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.clip.keys import TemplateSet
from twostage.clip.statistics import CLIP_STATISTICS, PixelUnits
from twostage.clip.templates import TEMPLATES
from twostage.clip.towers.vit import embed_image, project_tokens, run_blocks, value_path_features
from twostage.clip.toybox.towers import convnext_features, encode_captions, restricted_class_tokens, vit_features
from twostage.clip.toybox.training import render_pool
from twostage.data.toybox.captioned import NAMES
from twostage.data.toybox.scenes import IGNORE, Scene
from twostage.data.toybox.words import ALL_THINGS, CLASSES, SEEN_CLASSES, SEEN_STUFF, STUFF
from twostage.evaluation.confusion import ConfusionMatrix, pair_counts
from twostage.evaluation.metrics import semantic_figures


@torch.no_grad()
def text_rows(model: nn.Module, names: Sequence[str], templates: TemplateSet = "vild") -> Tensor:
    """Unit text embeddings [len(names), D], averaged over the templates."""
    rows = [encode_captions(model, [template.format(name) for name in names]) for template in TEMPLATES[templates]]
    return F.normalize(torch.stack(rows).mean(0), dim=-1)


@torch.no_grad()
def zero_shot_accuracy(model: nn.Module, seed: int, count: int = 400, side: int = 64) -> dict[str, float]:
    """Share of fresh one-thing pictures whose thing is the best of all things; also each word on its own."""
    pool = render_pool(seed, count * 2, side, workers=1)
    alone = [
        i for i in range(len(pool.images)) if pool.mentions[i, 0] >= len(STUFF) and pool.mentions[i, 1] < len(STUFF)
    ]
    pixels = torch.from_numpy(pool.images[alone[:count]].astype(np.float32)).permute(0, 3, 1, 2)
    image = _encode(model, PixelUnits(CLIP_STATISTICS)(pixels))
    things = NAMES[len(STUFF) : len(STUFF) + len(ALL_THINGS)]
    best = (image @ text_rows(model, things).T).argmax(1).tolist()
    truth = [int(pool.mentions[i, 0]) - len(STUFF) for i in alone[:count]]
    words = [(things[a].split(), things[b].split()) for a, b in zip(best, truth, strict=True)]
    result = {"things": float(np.mean([a == b for a, b in words]))}
    for place, word in enumerate(("attribute", "colour", "shape")):
        result[word] = float(np.mean([a[place] == b[place] for a, b in words]))
    return result


def _encode(model: nn.Module, images: Tensor) -> Tensor:
    """Unit picture embeddings [B, D]; pictures smaller than a ViT's canvas are put at random places of it."""
    if hasattr(model.visual, "trunk"):
        picture, _ = convnext_features(model.visual, images)
    else:
        picture, _ = vit_features(model.visual, images, False, torch.Generator().manual_seed(0))
    return F.normalize(picture, dim=-1)


class Groups(NamedTuple):
    """Means over the four groups of classes, in percent."""

    seen_stuff: float
    seen_things: float
    unseen_stuff: float
    unseen_things: float
    seen: float
    unseen: float


def group_means(values: np.ndarray) -> Groups:
    """Means of per-class `values` [len(CLASSES)] over the groups, absent classes (nan) left out."""
    a, b = len(SEEN_STUFF), len(SEEN_CLASSES)
    c = b + len(STUFF) - len(SEEN_STUFF)
    cuts = (slice(0, a), slice(a, b), slice(b, c), slice(c, None), slice(0, b), slice(b, None))
    return Groups(*(round(float(np.nanmean(values[cut])), 1) for cut in cuts))


@torch.no_grad()
def dense_baseline(model: nn.Module, scenes: Sequence[Scene]) -> Groups:
    """mIoU of the untrained dense CLIP (MaskCLIP's value path; for a ConvNeXt its head on every cell)."""
    rows, matrix = text_rows(model, CLASSES), ConfusionMatrix(len(CLASSES))
    for scene in scenes:
        pixels = _pixels(scene)
        if hasattr(model.visual, "trunk"):
            _, cells = convnext_features(model.visual, pixels)
            grid = (pixels.shape[2] // 16, pixels.shape[3] // 16)
            features = cells.transpose(1, 2).unflatten(2, grid)
        else:
            features = value_path_features(model.visual, pixels)
        logits = torch.einsum("bdhw,cd->bchw", F.normalize(features, dim=1), rows)
        logits = F.interpolate(logits, size=pixels.shape[2:], mode="bilinear", align_corners=False)
        labels = torch.from_numpy(scene.labels.astype(np.int64))
        known = labels != IGNORE
        matrix.add(*pair_counts(logits[0].argmax(0)[known], labels[known], len(CLASSES)))
    return group_means(100 * semantic_figures(matrix).iou)


def _pixels(scene: Scene) -> Tensor:
    return PixelUnits(CLIP_STATISTICS)(torch.from_numpy(scene.image.astype(np.float32)).permute(2, 0, 1)[None])


@torch.no_grad()
def region_accuracy(model: nn.Module, scenes: Sequence[Scene], blocks: int = 2) -> Groups:
    """Accuracy over all classes of class tokens that, in the last `blocks` blocks, attend to one true region only.

    One class token per region and scene, as SAN's shadow tokens: they read the patches (and themselves), the patches do
    not read them. A patch belongs to a region that covers half of it, or to the region's best patch.
    """
    rows = text_rows(model, CLASSES)
    visual: Any = model.visual
    hits, totals = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    layers = list(visual.transformer.resblocks)
    for scene in scenes:
        present = [int(c) for c in np.unique(scene.labels) if c != IGNORE]
        tokens, _ = run_blocks(layers[: len(layers) - blocks], embed_image(visual, _pixels(scene)))
        masks = torch.from_numpy(np.stack([scene.labels == c for c in present]).astype(np.float32))
        share = F.adaptive_avg_pool2d(masks[None], tokens.grid)[0].flatten(1)
        inside = share >= torch.minimum(share.amax(1, keepdim=True), torch.tensor(0.5))
        shadow, _ = restricted_class_tokens(layers[len(layers) - blocks :], tokens.x, inside[None])
        embedding = F.normalize(project_tokens(visual, shadow)[0], dim=-1)
        best = (embedding @ rows.T).argmax(1).tolist()
        for truth, guess in zip(present, best, strict=True):
            totals[truth] += 1
            hits[truth] += truth == guess
    return group_means(np.where(totals > 0, 100 * hits / np.maximum(totals, 1), np.nan))
