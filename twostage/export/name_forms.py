"""Files of systems that give similarities of a picture's patches with names.

Legend: C classes, N names (synonyms apart), D embedding size, h x w the grid of a picture, or of its windows side by side.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from twostage.clip.statistics import Pictures
from twostage.clip.text import TextEmbedder
from twostage.errors import UserError
from twostage.export.form import TILED, Form
from twostage.inference.mosaic import Mosaic
from twostage.inference.sliding import TileGrid
from twostage.predictions.prediction import Prediction
from twostage.systems.training_free.dense_clip.model import NameEmbeddings, embed_rows
from twostage.systems.training_free.dense_clip.prediction import ImageMaps, LabelRule, NamePrediction
from twostage.systems.training_free.talk2dino.model import Words
from twostage.vocabulary import Vocabulary


class PatchNames(Form):
    """What such files share: similarities `[N, h, w]`, where they lie, and how they become labels."""

    kind = "names"
    outputs = ("similarities",)

    def fixed_by(self, cfg: CfgNode) -> str:
        return TILED if cfg.TEST.SLIDING.ENABLED else ""

    def about(self, model: Any, cfg: CfgNode) -> dict[str, Any]:
        place, rule = self.place(model), self.rule(model)
        centred = place["padding"] == "centre"
        return {
            "canvas": {"multiple": place["patch"] if centred else [1, 1], "centred": True}
            if place["through_canvas"] or centred
            else None,
            "sigmoid_at_output": False,
            "rule": dataclasses.asdict(rule),
            "tile": model.tile,
            "stride": model.stride,
            **place,
            "pamr_steps": self.pamr_steps(model),
        }

    def place(self, model: Any) -> dict[str, Any]:
        """Arguments of `Mosaic` but for the windows."""
        return {
            "padding": "none",
            "patch": [1, 1],
            "through_canvas": True,
            "align_corners": False,
        }

    def rule(self, model: Any) -> LabelRule:
        """How similarities become labels."""
        return LabelRule(logit_scale=1.0)

    def pamr_steps(self, model: Any) -> int:
        """Rounds of refinement at the output's size."""
        return 0

    def outside(self, model: Any, cfg: CfgNode) -> list[str]:
        rule = self.rule(model)
        lacking = {
            "sliding windows": model.tile,
            "PAMR": self.pamr_steps(model),
            "thresholds": rule.probability_threshold or rule.area_threshold,
            "windows resized by their corners": self.place(model)["align_corners"],
        }
        return [name for name, needed in lacking.items() if needed]

    def reads_padding(self, cfg: CfgNode) -> bool:
        return False

    def text(
        self, embedder: TextEmbedder, vocabulary: Vocabulary, cfg: CfgNode, about: dict[str, Any]
    ) -> NameEmbeddings:
        return embed_rows(embedder, vocabulary, (), by_maximum=False)

    def tensors(self, text: NameEmbeddings) -> tuple[Tensor, ...]:
        return (text.rows,)

    def prediction(
        self, outputs: list[tuple[Tensor, ...]], images: Pictures, text: Any, cfg: CfgNode, about: dict[str, Any]
    ) -> Prediction:
        return NamePrediction(
            images=[
                ImageMaps(maps, self._mosaic(images.image_sizes[index], about), self._guide(images, index, about))
                for index, (maps,) in enumerate(outputs)
            ],
            classes=text.classes,
            num_classes=text.num_classes,
            rule=LabelRule(**about["rule"]),
            pamr_steps=about["pamr_steps"],
            pamr_dilations=list(cfg.MODEL.TRAINING_FREE.PAMR_DILATIONS),
        )

    def _mosaic(self, size: Any, about: dict[str, Any]) -> Mosaic:
        canvas = (int(size[0]), int(size[1]))
        tile, stride = (about["tile"],) * 2, (about["stride"],) * 2
        return Mosaic(
            tiles=TileGrid.covering(canvas, tile=tile, stride=stride) if about["tile"] else TileGrid.whole(canvas),
            padding=about["padding"],
            patch=(about["patch"][0], about["patch"][1]),
            through_canvas=about["through_canvas"],
            align_corners=about["align_corners"],
        )

    def _guide(self, images: Pictures, index: int, about: dict[str, Any]) -> Tensor | None:
        height, width = images.image_sizes[index]
        return images.tensor[index, :, :height, :width] if about["pamr_steps"] else None


class Names(PatchNames):
    """Cosine similarities of names with the patches of a picture, or of its windows (training-free CLIP)."""

    def rows(self, cfg: CfgNode) -> str:
        return "name" if cfg.MODEL.TRAINING_FREE.SYNONYMS == "maximum" else "class"

    def check(self, model: Any, cfg: CfgNode) -> None:
        if model.compares_names:
            raise UserError(
                "MaskCLIP's key smoothing, prompt denoising and CLIP Surgery compare all names with each other outside the "
                "network; they are not exported"
            )

    def place(self, model: Any) -> dict[str, Any]:
        return {
            **super().place(model),
            "padding": model.padding,
            "patch": list(model.tower.window_multiple),
            "through_canvas": bool(model.tile) or model.through_input_size,
        }

    def rule(self, model: Any) -> LabelRule:
        return model.rule

    def pamr_steps(self, model: Any) -> int:
        return model.pamr_steps

    def outside(self, model: Any, cfg: CfgNode) -> list[str]:
        background = ["background words"] if cfg.MODEL.TRAINING_FREE.BACKGROUND_WORDS else []
        return super().outside(model, cfg) + background

    def text(
        self, embedder: TextEmbedder, vocabulary: Vocabulary, cfg: CfgNode, about: dict[str, Any]
    ) -> NameEmbeddings:
        keys = cfg.MODEL.TRAINING_FREE
        return embed_rows(embedder, vocabulary, list(keys.BACKGROUND_WORDS), by_maximum=keys.SYNONYMS == "maximum")

    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        return (model.similarities(model.encode(images)[0], text),)


class ProxyNames(Names):
    """The same where patches attend by affinities of which those below a threshold are nothing (ProxyCLIP)."""

    # A pair of patches at the threshold moves what both are.
    strays = 1e-3


class SplicedNames(ProxyNames):
    """The same where windows are joined before they are named, inside the network (Trident without SAM)."""

    def fixed_by(self, cfg: CfgNode) -> str:
        return "the size that Trident stretches a picture to is computed from its own"

    def check(self, model: Any, cfg: CfgNode) -> None:
        super().check(model, cfg)
        if model.sam is not None:
            raise UserError(
                "Trident's SAM looks at the picture as it was before it was resized, and then at each region of its labels, "
                "whose number depends on the picture; only what comes before is exported: set "
                "MODEL.TRIDENT.AGGREGATE False and MODEL.TRIDENT.REFINE False"
            )

    def about(self, model: Any, cfg: CfgNode) -> dict[str, Any]:
        return {**super().about(model, cfg), "tile": 0}

    def place(self, model: Any) -> dict[str, Any]:
        return {**PatchNames.place(self, model), "through_canvas": False}

    def outside(self, model: Any, cfg: CfgNode) -> list[str]:
        return [name for name in super().outside(model, cfg) if name != "sliding windows"]


class PooledNames(PatchNames):
    """Probabilities of the classes, with the background's rule (CLIP-DINOiser)."""

    def place(self, model: Any) -> dict[str, Any]:
        return {**super().place(model), "padding": "stretch", "patch": list(model.tower.patch_size)}

    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        return (model.maps(model.encode(images)[0], text),)


class ProjectedNames(PatchNames):
    """Sigmoids of the likeness of a window's patches to names, which the network itself projects (Talk2DINO)."""

    def place(self, model: Any) -> dict[str, Any]:
        return {**super().place(model), "align_corners": True}

    def about(self, model: Any, cfg: CfgNode) -> dict[str, Any]:
        return {
            **super().about(model, cfg),
            "background_score": model.background_score,
            "background_rule": model.background_score > 0,
        }

    def embedder_options(self) -> dict[str, Any]:
        return {"plain": True, "split_synonyms": False}

    def text(
        self, embedder: TextEmbedder, vocabulary: Vocabulary, cfg: CfgNode, about: dict[str, Any]
    ) -> NameEmbeddings:
        names = vocabulary.names
        background = bool(about["background_score"]) and names[0].casefold() == "background" and len(names) > 1
        rows = embedder.embed_names(names[1:] if background else names)
        return NameEmbeddings(rows, torch.arange(len(names)), len(names))

    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        return (model.maps(model.encode(images)[0], Words(model.projection(text), False)),)

    def prediction(
        self, outputs: list[tuple[Tensor, ...]], images: Pictures, text: Any, cfg: CfgNode, about: dict[str, Any]
    ) -> Prediction:
        if len(text.rows) < text.num_classes:
            outputs = [
                (torch.cat([torch.full_like(maps[:1], about["background_score"]), maps]),) for (maps,) in outputs
            ]
        return super().prediction(outputs, images, text, cfg, about)
