"""Files of systems that give masks and what each of them is.

Legend: C classes, N names (synonyms apart), Q masks, h x w their grid.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode
from torch import Tensor

from twostage.clip.statistics import Pictures
from twostage.clip.text import TextEmbedder
from twostage.errors import UserError
from twostage.export.form import TILED, Form
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.predictions.prediction import Prediction
from twostage.systems.one_stage.segclip.grouped import BACKGROUND, GroupText
from twostage.systems.two_stage.fcclip.model import SynonymText, embed_synonyms
from twostage.systems.two_stage.ovseg.model import AskedText
from twostage.vocabulary import Vocabulary


class Masks(Form):
    """Mask logits `[Q, h, w]` and class probabilities `[Q, C]` (SAN, Mask2Former with text)."""

    kind = "masks"
    outputs = ("mask_logits", "class_probabilities", "class_logits")
    # Whether class probabilities are not those of the logits; such systems resize scores.
    weighted: ClassVar[bool] = False

    def check(self, model: Any, cfg: CfgNode) -> None:
        if cfg.MODEL.META_ARCHITECTURE == "Mask2Former" and cfg.MODEL.MASK2FORMER.CLASSIFIER != "text":
            raise UserError(
                "only a Mask2Former that reads text can be exported; set MODEL.MASK2FORMER.CLASSIFIER to 'text'"
            )

    def about(self, model: Any, cfg: CfgNode) -> dict[str, Any]:
        resize_scores = bool(getattr(model, "resize_scores", self.weighted))
        unit = max(1, model.size_divisibility)
        canvas = {"multiple": [unit, unit], "centred": False}
        return {"canvas": canvas, "sigmoid_at_output": not resize_scores, "resize_scores": resize_scores}

    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        prediction = model.decode(model.encode(images), text)
        return prediction.mask_logits[0], prediction.class_probabilities[0], prediction.class_logits[0]

    def prediction(
        self, outputs: list[tuple[Tensor, ...]], images: Pictures, text: Any, cfg: CfgNode, about: dict[str, Any]
    ) -> Prediction:
        masks, weights, logits = (torch.stack(parts) for parts in zip(*outputs, strict=True))
        return MaskPrediction(
            mask_logits=masks,
            class_logits=logits,
            class_weights=weights if self.weighted else None,
            geometry=Geometry.of(images),
            resize_scores=about["resize_scores"],
        )


class SynonymMasks(Masks):
    """The same where every synonym has a row (FC-CLIP, MAFT+, Mask-Adapter).

    `classes` int64 `[N]` is each row's class, `seen` bool `[C]`.
    """

    inputs = ("text", "classes", "seen")
    text_rows = "name"

    def about(self, model: Any, cfg: CfgNode) -> dict[str, Any]:
        return {**super().about(model, cfg), "train_names": sorted(model.train_names)}

    def text(self, embedder: TextEmbedder, vocabulary: Vocabulary, cfg: CfgNode, about: dict[str, Any]) -> SynonymText:
        return embed_synonyms(embedder, vocabulary, frozenset(about["train_names"]))

    def tensors(self, text: SynonymText) -> tuple[Tensor, ...]:
        return tuple(text)

    def words(self, *tensors: Tensor) -> SynonymText:
        return SynonymText(*tensors)


class Groups(Masks):
    """The same of groups of patches, a set per window; a pixel's share of a group is its mask (SegCLIP, GroupViT)."""

    weighted = True
    # A pixel between two groups is given to one.
    strays = 1e-3

    def fixed_by(self, cfg: CfgNode) -> str:
        return TILED if cfg.TEST.SLIDING.ENABLED else ""

    def check(self, model: Any, cfg: CfgNode) -> None:
        return None

    def about(self, model: Any, cfg: CfgNode) -> dict[str, Any]:
        return {**super().about(model, cfg), "background_rule": True}

    def reads_padding(self, cfg: CfgNode) -> bool:
        return False

    def text(self, embedder: TextEmbedder, vocabulary: Vocabulary, cfg: CfgNode, about: dict[str, Any]) -> Tensor:
        if vocabulary.names[0] == BACKGROUND:
            raise UserError(
                "an exported SegCLIP or GroupViT has no rule for a class 'background'; leave it out, or use the system itself"
            )
        return embedder(vocabulary)

    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        return super().run(model, images, GroupText(text, False))


class RegionMasks(Masks):
    """The same where CLIP looks at all masks in one pass over the picture without padding (OVSeg without crops)."""

    weighted = True
    pads_inside = True

    def fixed_by(self, cfg: CfgNode) -> str:
        return (
            "which pixels a cell of CLIP's grid covers is computed for the traced size"
            if cfg.MODEL.OVSEG.ENSEMBLE
            else ""
        )

    def check(self, model: Any, cfg: CfgNode) -> None:
        keys = cfg.MODEL.OVSEG
        if keys.ENSEMBLE and keys.REGIONS == "crop":
            raise UserError(
                "OVSeg's masked crops are not exported: only masks that hold pixels are cropped, each once, so that their "
                "number depends on the picture (torch's tracer: 'could not extract specialized integer from data-dependent "
                "expression u0'); set MODEL.OVSEG.REGIONS to 'attention_bias', 'mask_pool' or 'mask_adapter'"
            )
        for wrong, key in (
            (model.masks is not None, "MODEL.MASKS.SOURCE 'own'"),
            (model.best_proposals_only, "MODEL.OVSEG.BEST_PROPOSALS_ONLY False"),
            (model.seen_names, "MODEL.OVSEG.SEEN_CLASSES_OF ''"),
        ):
            if wrong:
                raise UserError(f"this OVSeg needs more than picture and words; export it with {key}")

    def reads_padding(self, cfg: CfgNode) -> bool:
        return False

    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        return super().run(model, images, AskedText(text, 0))
