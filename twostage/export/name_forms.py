"""Files of systems that give similarities of a picture's patches with names.

Legend: C classes, N names (synonyms apart), D embedding size, h x w the grid of a picture, or of its windows side by side.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from twostage.clip.statistics import Pictures
from twostage.clip.text import TextEmbedder
from twostage.errors import UserError
from twostage.export.form import Form
from twostage.inference.mosaic import Mosaic
from twostage.inference.sliding import TileGrid
from twostage.predictions.prediction import Prediction
from twostage.systems.training_free.dense_clip.model import NameEmbeddings, embed_rows, rule_from_config
from twostage.systems.training_free.dense_clip.prediction import ImageMaps, NamePrediction
from twostage.vocabulary import Vocabulary


class Names(Form):
    """Cosine similarities `[N, h, w]` of names with the patches of a picture, or of its windows (training-free CLIP)."""

    kind = "names"
    outputs = ("similarities",)

    def rows(self, cfg: CfgNode) -> str:
        return "name" if cfg.MODEL.TRAINING_FREE.SYNONYMS == "maximum" else "class"

    def check(self, model: Any, cfg: CfgNode) -> None:
        if model.compares_names:
            raise UserError(
                "MaskCLIP's key smoothing, prompt denoising and CLIP Surgery compare all names with each other outside the "
                "network; they are not exported"
            )

    def about(self, model: Any, cfg: CfgNode) -> dict[str, Any]:
        through = bool(model.tile) or model.through_input_size or model.padding == "centre"
        patch = list(model.tower.window_multiple) if model.padding == "centre" else [1, 1]
        return {
            "canvas": {"multiple": patch, "centred": True} if through else None,
            "sigmoid_at_output": False,
            "rule": dataclasses.asdict(model.rule),
            "patch": list(model.tower.window_multiple),
            "tile": model.tile,
            "stride": model.stride,
            "padding": model.padding,
            "through_canvas": bool(model.tile) or model.through_input_size,
            "pamr_steps": model.pamr_steps,
        }

    def outside(self, model: Any, cfg: CfgNode) -> list[str]:
        rule = model.rule
        lacking = {
            "sliding windows": model.tile,
            "PAMR": model.pamr_steps,
            "thresholds": rule.probability_threshold or rule.area_threshold,
            "background words": len(cfg.MODEL.TRAINING_FREE.BACKGROUND_WORDS),
        }
        return [name for name, needed in lacking.items() if needed]

    def reads_padding(self, cfg: CfgNode) -> bool:
        return False

    def text(
        self, embedder: TextEmbedder, vocabulary: Vocabulary, cfg: CfgNode, about: dict[str, Any]
    ) -> NameEmbeddings:
        keys = cfg.MODEL.TRAINING_FREE
        return embed_rows(embedder, vocabulary, list(keys.BACKGROUND_WORDS), by_maximum=keys.SYNONYMS == "maximum")

    def tensors(self, text: NameEmbeddings) -> tuple[Tensor, ...]:
        return (text.rows,)

    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        return (model.similarities(model.encode(images)[0], text),)

    def prediction(
        self, outputs: list[tuple[Tensor, ...]], images: Pictures, text: Any, cfg: CfgNode, about: dict[str, Any]
    ) -> Prediction:
        found = []
        for index, (maps,) in enumerate(outputs):
            height, width = images.image_sizes[index]
            tiles = (
                TileGrid.covering((height, width), tile=(about["tile"],) * 2, stride=(about["stride"],) * 2)
                if about["tile"]
                else TileGrid.whole((height, width))
            )
            mosaic = Mosaic(
                tiles=tiles,
                padding=about["padding"],
                patch=(about["patch"][0], about["patch"][1]),
                through_canvas=about["through_canvas"],
            )
            guide = images.tensor[index, :, :height, :width] if about["pamr_steps"] else None
            found.append(ImageMaps(maps, mosaic, guide))
        keys = cfg.MODEL.TRAINING_FREE
        return NamePrediction(
            images=found,
            classes=text.classes,
            num_classes=text.num_classes,
            rule=rule_from_config(cfg),
            pamr_steps=about["pamr_steps"],
            pamr_dilations=list(keys.PAMR_DILATIONS),
        )
