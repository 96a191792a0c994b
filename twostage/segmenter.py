"""The contract that all systems share: preprocess -> encode -> (text) -> predict -> finish.

A system is a `META_ARCH_REGISTRY` entry that derives from `OpenVocabularySegmenter` and writes only what is its own:
`encode` (everything about an image that the vocabulary does not touch), `decode` (with the text, to a prediction) and
`losses`. Datasets, vocabulary, text embeddings, output, evaluator, trainer and checkpoints do not notice which one runs.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from twostage.batch import batch_things, batch_vocabulary, output_sizes, places_by_size
from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.loading import ClipModel, Tokenizer
from twostage.clip.statistics import Pictures, PixelStatistics, PixelUnits
from twostage.clip.text import TextEmbedder
from twostage.errors import UserError
from twostage.inference.precision import DTYPES, reduced
from twostage.machine import resolve_precision
from twostage.predictions.contrasted import ContrastedPrediction
from twostage.predictions.outputs import OutputSettings, finish
from twostage.predictions.prediction import Prediction
from twostage.vocabulary import Vocabulary

# What a system knows of images, and what it knows of words.
Encoded = TypeVar("Encoded")
Text = TypeVar("Text")


class OpenVocabularySegmenter(nn.Module, abc.ABC, Generic[Encoded, Text]):
    """Base of every system, which names the types of what its `encode` and its `embed_vocabulary` return.

    Attributes:
        clip: the open_clip model, under open_clip's own parameter names.
        outputs: what the dicts of evaluation hold.
        precision: of inference, see `twostage.inference.precision`; None is float32.
        decode_has_layers: whether `decode`, too, runs in that precision; where it is little more than a product with the text
            it stays float32.
    """

    clip: ClipModel
    decode_has_layers: ClassVar[bool] = False

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        for name in ("encode", "decode") if cls.decode_has_layers else ("encode",):
            if name in vars(cls):
                setattr(cls, name, reduced(vars(cls)[name]))

    def __init__(
        self,
        *,
        clip: ClipModel,
        text: TextEmbedder,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 0,
        outputs: OutputSettings,
        precision: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            pixel_mean, pixel_std: RGB, on 0..255.
            size_divisibility: images are zero-padded right and bottom, after normalisation, to a multiple of this.
            outputs: what the dicts of evaluation hold.
            precision: of inference; None is float32.
        """
        super().__init__()
        self.clip = clip
        self.text = text
        self.size_divisibility = size_divisibility
        self.outputs = outputs
        self.precision = precision
        self.units = PixelUnits(PixelStatistics(pixel_mean, pixel_std))

    @property
    def trunks(self) -> list[nn.Module]:
        """Networks that run in `precision` as a whole, so that their weights may be stored in it."""
        found = [getattr(self, name, None) for name in ("backbone", "foundation")]
        visual = getattr(self.clip, "visual", None)
        return [module for module in (visual, *found) if isinstance(module, nn.Module)]

    @abc.abstractmethod
    def encode(self, images: Pictures) -> Encoded:
        """Everything about normalised, padded `images` that does not depend on the vocabulary."""

    @abc.abstractmethod
    def decode(self, encoded: Encoded, text: Text) -> Prediction:
        """Prediction from what `encode` returned and what `embed_vocabulary` returned."""

    def decode_rivalled(self, encoded: Encoded, text: Text) -> Prediction:
        """`decode` where only the best word of a pixel matters, asked or contrast word.

        A system whose label maps overrule the best word by a rule of their own, such as a threshold, overrides this.
        """
        return self.decode(encoded, text)

    def answer(self, encoded: Encoded, vocabulary: Vocabulary, others: Sequence[str] = ()) -> Prediction:
        """What `encode`d images show of `vocabulary`; pixels that one of the contrast words `others` wins are none of it."""
        asked = self.decode(encoded, self.embed_vocabulary(vocabulary))
        if not others:
            return asked
        everything = Vocabulary((*vocabulary.names, *others))
        rivalled = self.decode_rivalled(encoded, self.embed_vocabulary(everything))
        return ContrastedPrediction(asked=asked, rivalled=rivalled, num_asked=len(vocabulary))

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Text:
        """Everything about the words that does not depend on images: unit text embeddings `[C, D]`.

        A system that wants to know more (one row per synonym, which class is the background) overrides this.
        """
        return cast(Text, self.text(vocabulary))

    def losses(self, encoded: Encoded, text: Text, batch: list[dict[str, Any]], images: Pictures) -> dict[str, Tensor]:
        """Weighted losses of a training batch; systems that are not trained leave this out."""
        raise UserError(f"{type(self).__name__} is training-free; run it with --eval-only")

    def checkpoint_table(self) -> CheckpointTable | None:
        """How official checkpoints relate to this model; None where there are none."""
        return None

    def checkpoint_tables(self) -> tuple[CheckpointTable, ...]:
        """The same where official checkpoints come in several layouts: the table that recognises a file renames it."""
        table = self.checkpoint_table()
        return () if table is None else (table,)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training, else one dict per image.

        What batch entries hold is described in `twostage.batch`; all images of a batch share one vocabulary. Images of other
        sizes are predicted apart, so that padding changes nobody's result.
        """
        if not self.training:
            found: dict[int, dict[str, Any]] = {}
            for places in places_by_size(batch):
                part = [batch[place] for place in places]
                results = finish(
                    self.predict(part), output_sizes(part), things=batch_things(part), settings=self.outputs
                )
                found.update(zip(places, results, strict=True))
            return [found[place] for place in range(len(batch))]
        images = self.preprocess(batch)
        text = self.embed_vocabulary(batch_vocabulary(batch))
        return self.losses(self.encode(images), text, batch, images)

    def predict(self, batch: list[dict[str, Any]]) -> Prediction:
        """The prediction of which `forward` makes its dicts; smaller images of the batch are padded to the largest."""
        images = self.preprocess(batch)
        text = self.embed_vocabulary(batch_vocabulary(batch))
        return self.decode(self.encode(images), text)

    def preprocess(self, batch: list[dict[str, Any]]) -> Pictures:
        """Normalise the images and stack them, zero-padded right and bottom: tensor `[B, 3, H, W]`."""
        pixels = [entry["image"].to(self.units.mean.device) for entry in batch]
        return Pictures(pixels, self.units, self.size_divisibility)


def shared_arguments(
    cfg: CfgNode,
    clip: ClipModel | None,
    tokenizer: Tokenizer | None,
    *,
    size_divisibility: int = 0,
    per_template: bool = False,
) -> dict[str, Any]:
    """Constructor arguments of `OpenVocabularySegmenter` that every system's `from_config` passes on.

    Args:
        clip, tokenizer: None for a system whose classes are not words.
        size_divisibility: see `OpenVocabularySegmenter`.
        per_template: see `TextEmbedder`.
    """
    text = None
    if clip is not None and tokenizer is not None:
        text = TextEmbedder.from_config(cfg, clip, tokenizer, per_template=per_template)
    return {
        "clip": clip,
        "text": text,
        "outputs": OutputSettings.from_config(cfg),
        "precision": DTYPES[resolve_precision(cfg)],
        "size_divisibility": size_divisibility,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }
