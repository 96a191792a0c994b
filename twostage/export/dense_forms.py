"""Files of systems that give class logits of every cell of a grid.

Legend: C classes, V views of a picture, h x w a grid.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from twostage.clip.statistics import Pictures
from twostage.clip.text import TextEmbedder
from twostage.errors import UserError
from twostage.export.form import Form
from twostage.inference.early_rejection import VOTES
from twostage.predictions.dense import DensePrediction
from twostage.predictions.geometry import Geometry
from twostage.predictions.prediction import Prediction
from twostage.systems.one_stage.catseg.views import ClassScores, views_from_config
from twostage.systems.one_stage.cost_aggregation.kept_classes import REJECTED_PROBABILITY
from twostage.systems.one_stage.maskclip_plus.model import names_to_embed
from twostage.vocabulary import Vocabulary


class CostViews(Form):
    """Class logits `[V, C, h, w]` of the views of a picture (CAT-Seg, PCA-Seg)."""

    kind = "dense"
    outputs = ("logits",)
    text_rows = "templates"

    def check(self, model: Any, cfg: CfgNode) -> None:
        _refuse_rejection(model)
        if type(model.guide).__name__ != "TapGuide":
            raise UserError(
                "CAT-Seg with a backbone beside CLIP looks at the picture in other units and is not exported; use a config "
                "whose MODEL.CATSEG.BACKBONE is empty"
            )

    def about(self, model: Any, cfg: CfgNode) -> dict[str, Any]:
        return {**super().about(model, cfg), "most_classes": model.class_slots}

    def outside(self, model: Any, cfg: CfgNode) -> list[str]:
        return ["sliding windows"] if cfg.TEST.SLIDING.ENABLED else []

    def reads_padding(self, cfg: CfgNode) -> bool:
        return not cfg.TEST.SLIDING.ENABLED

    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        slots, model.class_slots = model.class_slots, 0
        try:
            return (model.class_scores(model.encode(images), text).logits,)
        finally:
            model.class_slots = slots

    def prediction(
        self, outputs: list[tuple[Tensor, ...]], images: Pictures, text: Any, cfg: CfgNode, about: dict[str, Any]
    ) -> Prediction:
        if 0 < about["most_classes"] < len(text):
            raise UserError(
                f"this file takes up to {about['most_classes']} classes, these are {len(text)}; give fewer, or export with "
                "MODEL.CATSEG.CLASS_SLOTS 0"
            )
        scores = ClassScores(torch.cat([logits for (logits,) in outputs]), None, len(text))
        return views_from_config(cfg).join(scores, [(int(h), int(w)) for h, w in images.image_sizes])


class CostMap(Form):
    """Class logits `[1, C, h, w]` (SED)."""

    kind = "dense"
    outputs: tuple[str, ...] = ("logits",)
    text_rows = "templates"

    def check(self, model: Any, cfg: CfgNode) -> None:
        _refuse_rejection(model)

    def reads_padding(self, cfg: CfgNode) -> bool:
        return False

    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        # All classes at once: their number is not known when the network is traced.
        return (model.decoder(model.encode(images).features, text)[-1],)

    def prediction(
        self, outputs: list[tuple[Tensor, ...]], images: Pictures, text: Any, cfg: CfgNode, about: dict[str, Any]
    ) -> Prediction:
        probabilities = torch.cat([logits for (logits,) in outputs]).sigmoid()
        grid = (probabilities.shape[-2], probabilities.shape[-1])
        geometry = Geometry.on_grid(grid, [(int(h), int(w)) for h, w in images.image_sizes])
        return DensePrediction(logits=probabilities, geometry=geometry, num_classes=len(text), fill=0.0)


class ElectedMap(CostMap):
    """Class logits `[1, K, h, w]` of the classes `kept` `[1, K]` that the picture's pixels vote for (ERR-Seg)."""

    outputs = ("logits", "kept")

    def check(self, model: Any, cfg: CfgNode) -> None:
        return None

    def about(self, model: Any, cfg: CfgNode) -> dict[str, Any]:
        return {**super().about(model, cfg), "rejected": REJECTED_PROBABILITY}

    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        encoded = model.encode(images)
        costs = model.costs(encoded, text)
        kept = traced_election(costs.fine[0].mean(dim=1), model.test_slots)[None]
        return model.class_logits(encoded, text, costs, kept), kept

    def prediction(
        self, outputs: list[tuple[Tensor, ...]], images: Pictures, text: Any, cfg: CfgNode, about: dict[str, Any]
    ) -> Prediction:
        logits, kept = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        plain = super().prediction([(logits,)], images, text, cfg, about)
        assert isinstance(plain, DensePrediction), "what maps are"
        return dataclasses.replace(plain, kept=kept if kept.shape[1] < len(text) else None, fill=about["rejected"])


def traced_election(scores: Tensor, slots: int) -> Tensor:
    """`PixelVotes` for scores `[C, h, w]` whose C is a symbol: the kept classes int64 `[min(slots, C)]`, ascending.

    The class axis is made longer, so that fewer classes than votes are no case of their own; what is added comes last.
    """
    ranks = len(VOTES)
    longer = F.pad(scores.flatten(1).T, (0, ranks), value=float("-inf"))
    votes = scores.new_zeros(longer.shape[1])
    for places, weight in zip(longer.topk(ranks, dim=1).indices.unbind(1), VOTES, strict=True):
        votes = votes + weight * torch.zeros_like(votes).scatter_add(
            0, places, torch.ones_like(places, dtype=votes.dtype)
        )
    # In ONNX this is TopK, of whose equals the lower index goes first, as with `PixelVotes`.
    order = votes[:-ranks].sort(descending=True).indices
    return order[: torch.sym_min(scores.shape[0], slots)].sort().values


class PlainMap(Form):
    """Products `[1, C, h, w]` of the classes with features of a picture without padding (MaskCLIP+)."""

    kind = "dense"
    outputs = ("logits",)

    def about(self, model: Any, cfg: CfgNode) -> dict[str, Any]:
        return {
            "canvas": {"multiple": [1, 1], "centred": False},
            "sigmoid_at_output": True,
            "background_rule": model.background_embedding is not None,
        }

    def outside(self, model: Any, cfg: CfgNode) -> list[str]:
        return ["a learned background"] if model.background_embedding is not None else []

    def reads_padding(self, cfg: CfgNode) -> bool:
        return False

    def text(self, embedder: TextEmbedder, vocabulary: Vocabulary, cfg: CfgNode, about: dict[str, Any]) -> Tensor:
        return embedder(names_to_embed(vocabulary, learned_background=about["background_rule"]))

    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        return (model.logits(model.encode(images).features, text),)

    def prediction(
        self, outputs: list[tuple[Tensor, ...]], images: Pictures, text: Any, cfg: CfgNode, about: dict[str, Any]
    ) -> Prediction:
        logits = torch.cat([found for (found,) in outputs])
        return DensePrediction(logits=logits, geometry=Geometry.of(images), num_classes=logits.shape[1])


def _refuse_rejection(model: Any) -> None:
    """UserError for what decides from the picture which classes go on."""
    for part, key in (("early_rejection", "TEST.EARLY_REJECTION.ENABLED False"), ("presence", "no presence head")):
        if getattr(model, part) is not None:
            raise UserError(
                f"an exported network computes all classes, and this config leaves some out; export with {key}"
            )
