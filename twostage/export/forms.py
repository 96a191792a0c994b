"""What a system's ONNX file takes and gives, and how its outputs become the prediction that the system itself makes.

Files hold everything with weights: pictures (normalised and padded) and words in, and what a prediction resizes out. What
follows (resizes, thresholds, label maps in strips) stays outside, so that a file works for any output size.

Legend: C classes, N names (synonyms apart), P prompt templates, D embedding size, Q masks, V views of a picture, h x w a grid.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from twostage.clip.statistics import Pictures
from twostage.clip.text import TextEmbedder
from twostage.errors import UserError
from twostage.inference.mosaic import Mosaic
from twostage.inference.sliding import TileGrid
from twostage.predictions.dense import DensePrediction
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.predictions.prediction import Prediction
from twostage.systems.one_stage.catseg.views import ClassScores, views_from_config
from twostage.systems.training_free.dense_clip.model import NameEmbeddings, embed_rows, rule_from_config
from twostage.systems.training_free.dense_clip.prediction import ImageMaps, NamePrediction
from twostage.systems.two_stage.fcclip.model import SynonymText, embed_synonyms
from twostage.vocabulary import Vocabulary


class Form(abc.ABC):
    """One kind of file.

    Attributes:
        kind: how other programs tell it ("masks", "dense" or "names"; see `docs/export.md`).
        inputs: names of the text inputs; the number of classes or names is their first axis.
        outputs: names of the outputs.
        text_rows: what a row of the text input is: a class, a class with all its templates, or a name.
    """

    kind: str
    inputs: tuple[str, ...] = ("text",)
    outputs: tuple[str, ...]
    text_rows: str = "class"

    def check(self, model: Any, cfg: CfgNode) -> None:
        """Raises UserError where the config asks for something that files do not hold."""
        return None

    def about(self, model: Any, cfg: CfgNode) -> dict[str, Any]:
        """What is needed behind the outputs, for the metadata.

        In every form `canvas` is what maps are resized to before they are cut to the picture's size in the network, None where
        they go straight to the output: `multiple` of (height, width) that the picture fills up to, on both sides where
        `centred`; `sigmoid_at_output` tells whether sigmoids come behind the resize to the output.
        """
        return {"canvas": None, "sigmoid_at_output": False}

    def outside(self, model: Any, cfg: CfgNode) -> list[str]:
        """What comes behind the outputs that simple programs can't do, in words."""
        return []

    def reads_padding(self, cfg: CfgNode) -> bool:
        """Whether the network sees the zeros that bring a picture to a multiple of a size."""
        return True

    def rows(self, cfg: CfgNode) -> str:
        """`text_rows` of this config."""
        return self.text_rows

    def embedder_options(self) -> dict[str, Any]:
        """Of `TextEmbedder.from_config`."""
        return {"per_template": self.text_rows == "templates"}

    def text(self, embedder: TextEmbedder, vocabulary: Vocabulary, cfg: CfgNode, about: dict[str, Any]) -> Any:
        """What the system's `embed_vocabulary` returns."""
        return embedder(vocabulary)

    def tensors(self, text: Any) -> tuple[Tensor, ...]:
        """The text inputs, in the order of `inputs`."""
        return (text,)

    def words(self, *tensors: Tensor) -> Any:
        """The system's text from the inputs, while a network is traced."""
        return tensors[0]

    @abc.abstractmethod
    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        """The outputs for one picture, from the system."""

    @abc.abstractmethod
    def prediction(
        self, outputs: list[tuple[Tensor, ...]], images: Pictures, text: Any, cfg: CfgNode, about: dict[str, Any]
    ) -> Prediction:
        """The system's prediction, from the outputs of every picture."""


class Masks(Form):
    """Mask logits `[Q, h, w]` and class probabilities `[Q, C]` (SAN, Mask2Former with text)."""

    kind = "masks"
    outputs = ("mask_logits", "class_probabilities", "class_logits")

    def check(self, model: Any, cfg: CfgNode) -> None:
        if cfg.MODEL.META_ARCHITECTURE == "Mask2Former" and cfg.MODEL.MASK2FORMER.CLASSIFIER != "text":
            raise UserError(
                "only a Mask2Former that reads text can be exported; set MODEL.MASK2FORMER.CLASSIFIER to 'text'"
            )

    def about(self, model: Any, cfg: CfgNode) -> dict[str, Any]:
        resize_scores = bool(getattr(model, "resize_scores", False))
        unit = max(1, model.size_divisibility)
        canvas = {"multiple": [unit, unit], "centred": False}
        return {"canvas": canvas, "sigmoid_at_output": not resize_scores, "resize_scores": resize_scores}

    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        prediction = model.decode(model.encode(images), text)
        return prediction.mask_logits[0], prediction.class_probabilities[0], prediction.class_logits[0]

    def prediction(
        self, outputs: list[tuple[Tensor, ...]], images: Pictures, text: Any, cfg: CfgNode, about: dict[str, Any]
    ) -> Prediction:
        masks, _, logits = (torch.stack(parts) for parts in zip(*outputs, strict=True))
        return MaskPrediction(
            mask_logits=masks,
            class_logits=logits,
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
    outputs = ("logits",)
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


def _refuse_rejection(model: Any) -> None:
    """UserError for what decides from the picture which classes go on."""
    for part, key in (("early_rejection", "TEST.EARLY_REJECTION.ENABLED False"), ("presence", "no presence head")):
        if getattr(model, part) is not None:
            raise UserError(
                f"an exported network computes all classes, and this config leaves some out; export with {key}"
            )


# Meta-architecture -> its form.
FORMS: dict[str, Form] = {
    "SAN": Masks(),
    "Mask2Former": Masks(),
    "FCCLIP": SynonymMasks(),
    "MAFTPlus": SynonymMasks(),
    "MaskAdapter": SynonymMasks(),
    "CATSeg": CostViews(),
    "PCASeg": CostViews(),
    "SED": CostMap(),
    "TrainingFree": Names(),
    "ProxyClip": Names(),
}

# Those that were looked at and have none, and why.
_WITHOUT = {
    "OVSeg": "only the crops of masks that hold pixels go through CLIP, and their number depends on the picture",
    "SCAN": "only the crops of masks that hold pixels go through CLIP, and their number depends on the picture",
    "ERRSeg": "the picture decides which classes go on",
    "CorrClip": "segments of the picture are made beside the network",
}


def form_of(cfg: CfgNode) -> Form:
    """The form of a config's system.

    Raises:
        UserError: there is none.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in FORMS:
        reason = _WITHOUT.get(name, "nobody has traced it")
        raise UserError(f"{name} is not exported: {reason}; there are: {', '.join(sorted(FORMS))}")
    return FORMS[name]
