"""What the cases of ProxyCLIP and those after it have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from conformance.case import Case
from conformance.inputs import as_stored
from conformance.recording import Arrays
from conformance.seeded import seeded_tensor
from twostage.errors import UserError
from twostage.inference.mosaic import Mosaic
from twostage.inference.resampling import Size
from twostage.inference.sliding import TileGrid
from twostage.systems.training_free.dense_clip.model import NameEmbeddings
from twostage.systems.training_free.dense_clip.prediction import ImageMaps, LabelRule, NamePrediction


def describe(case: Case) -> None:
    """Fields in words about what is done here anyhow, and how near the case lies to its thresholds."""
    case.told("commit", "fed", "class_file", "weights", "affinity", "constants_note", "correlations", "background")


def use_templates(model: Any, templates: Sequence[str]) -> None:
    """Embed names with the case's own prompts, which are a part of the published ones.

    Raises:
        UserError: one that our config does not have.
    """
    if others := [template for template in templates if template not in model.text._templates]:
        raise UserError(f"the case's template {others[0]!r} is not among those of our config (MODEL.CLIP.TEMPLATES)")
    model.text._templates = tuple(templates)


def prediction_arrays(
    case: Case, prediction: NamePrediction, text: NameEmbeddings, pixels: Tensor, size: Size
) -> Arrays:
    """What a whole run is compared by, of the picture `pixels` at the output `size`."""
    return {
        "text_features": text.rows,
        "query_idx": text.classes,
        "input": pixels,
        "cosine_ori": prediction.similarities(0, size)[None],
        "prob": prediction.scores([size])[0],
        "argmax": as_stored(case, "argmax", prediction.label_maps([size])[0]),
    }


def post_processed(prediction: NamePrediction, maps: Tensor, rule: Mapping[str, Any]) -> NamePrediction:
    """The decision alone, on similarities `[N, height, width]` at the output size, with the case's constants."""
    if unknown := sorted(set(rule) - {"centred", "logit_scale", "prob_thd"}):
        raise UserError(f"the case's post-processing has {unknown[0]!r}, which is not known here")
    if rule["centred"]:
        maps = maps - maps.mean(dim=(1, 2), keepdim=True)
    return dataclasses.replace(
        prediction,
        images=[ImageMaps(maps, Mosaic(tiles=TileGrid.whole((maps.shape[-2], maps.shape[-1]))))],
        rule=LabelRule(logit_scale=rule["logit_scale"], probability_threshold=rule["prob_thd"]),
    )


def cell_features(name: str, *, channels: int, grid: tuple[int, int], mix: float, seed: int) -> Tensor:
    """Features `[1, C, h, w]` that are alike in each of nine cells: mix * centre of the cell + noise."""
    height, width = grid
    noise = 10 * seeded_tensor(f"{name}.noise", (channels * height * width,), seed).view(channels, height, width)
    centres = 10 * seeded_tensor(f"{name}.centre", (channels * 9,), seed).view(channels, 9)
    rows, columns = (3 * torch.arange(side) // side for side in grid)
    return (mix * centres[:, rows[:, None] * 3 + columns] + noise)[None]
