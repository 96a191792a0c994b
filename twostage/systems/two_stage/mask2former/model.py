"""Mask2Former (Cheng et al., CVPR 2022) as a system: masks classified over a closed list, as objects or not, or by text."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.loading import load_clip_from_config
from twostage.errors import UserError
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.proposals.generator import MaskGenerator, build_mask_generator
from twostage.proposals.keys import Classifier
from twostage.proposals.losses import MaskLosses, mask_targets
from twostage.proposals.mlp import MLP
from twostage.proposals.queries import MaskedQueries
from twostage.segmenter import OpenVocabularySegmenter, shared_arguments
from twostage.systems.two_stage.heads import TextClassifier
from twostage.systems.two_stage.mask2former.weights import checkpoint_table
from twostage.vocabulary import Vocabulary

# Cosine similarities are multiplied by this, as in OVSeg and SCAN.
_TEXT_SCALE = 100.0


class Encoded(NamedTuple):
    """`outputs` of the generator, the final one first, and where their masks lie."""

    outputs: list[MaskedQueries]
    geometry: Geometry


@META_ARCH_REGISTRY.register()
class Mask2Former(OpenVocabularySegmenter[Encoded, Tensor | None]):
    """Mask proposals with one of three classifiers.

    closed: the training classes, whose names the vocabulary only labels; agnostic: object or void, for proposals; text:
    an embedding of every query in CLIP's space, compared with the text embeddings of any vocabulary.
    """

    @configurable
    def __init__(
        self,
        *,
        generator: MaskGenerator,
        class_embed: nn.Module,
        classifier: Classifier,
        criterion: MaskLosses,
        resize_scores: bool,
        **shared: Any,
    ) -> None:
        """
        Args:
            class_embed: from queries `[B, Q, C]` to logits of the classes and void, or to embeddings in CLIP's space.
            resize_scores: see `MaskPrediction`.
            shared: see `OpenVocabularySegmenter`; `clip` and `text` are None but for the text classifier.
        """
        super().__init__(**shared)
        self.generator = generator
        self.class_embed = class_embed
        self.classifier = classifier
        self.criterion = criterion
        self.resize_scores = resize_scores
        if classifier == "text":
            self.clip.requires_grad_(False)
            width = self.clip.text_projection.shape[1]
            self.void_embedding = nn.Parameter(torch.randn(1, width) * width**-0.5)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.MASK2FORMER`, the backbone's keys and `MODEL.MASK_LOSS`."""
        keys = cfg.MODEL.MASK2FORMER
        clip = tokenizer = None
        class_embed: nn.Module
        if keys.CLASSIFIER == "text":
            clip, tokenizer = load_clip_from_config(cfg)
            class_embed = MLP([keys.WIDTH, keys.TEXT_HIDDEN, clip.text_projection.shape[1]])
        else:
            class_embed = nn.Linear(keys.WIDTH, (keys.NUM_CLASSES if keys.CLASSIFIER == "closed" else 1) + 1)
        return {
            **shared_arguments(cfg, clip, tokenizer, size_divisibility=keys.SIZE_DIVISIBILITY),
            "generator": build_mask_generator(cfg),
            "class_embed": class_embed,
            "classifier": keys.CLASSIFIER,
            "criterion": MaskLosses.from_config(cfg),
            "resize_scores": keys.RESIZE_SCORES,
        }

    def checkpoint_table(self) -> CheckpointTable:
        """Official names of this model's tensors."""
        return checkpoint_table()

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Tensor | None:
        """Unit text embeddings `[C, D]`, None for the classifiers that read no text.

        Raises:
            UserError: a closed classifier, and a vocabulary of another length than its classes.
        """
        if self.classifier == "text":
            return self.text(vocabulary)
        classes = self._void
        if self.classifier == "closed" and len(vocabulary.names) != classes:
            raise UserError(
                f"this Mask2Former knows {classes} classes, the vocabulary names {len(vocabulary.names)}; give the names it "
                "was trained with, or use MODEL.MASK2FORMER.CLASSIFIER 'text'"
            )
        return None

    @property
    def _void(self) -> int:
        assert isinstance(self.class_embed, nn.Linear)
        return self.class_embed.out_features - 1

    def encode(self, images: ImageList) -> Encoded:
        return Encoded(self.generator(images.tensor), Geometry.of(images))

    def class_logits(self, queries: Tensor, text: Tensor | None) -> Tensor:
        """Logits `[B, Q, C + 1]` of queries `[B, Q, W]`, void last."""
        embedded = self.class_embed(queries)
        if text is None:
            return embedded
        return TextClassifier.scaled(text, self.void_embedding)(_TEXT_SCALE * F.normalize(embedded, dim=-1))

    def decode(self, encoded: Encoded, text: Tensor | None) -> MaskPrediction:
        final = encoded.outputs[0]
        return MaskPrediction(
            mask_logits=final.mask_logits,
            class_logits=self.class_logits(final.queries, text),
            geometry=encoded.geometry,
            resize_scores=self.resize_scores,
        )

    def losses(
        self, encoded: Encoded, text: Tensor | None, batch: list[dict[str, Any]], images: ImageList
    ) -> dict[str, Tensor]:
        outputs = [(self.class_logits(o.queries, text), o.mask_logits) for o in encoded.outputs]
        targets = mask_targets(batch, encoded.geometry.padded, images.tensor.device)
        if self.classifier == "agnostic":
            targets = [dataclasses.replace(t, classes=torch.zeros_like(t.classes)) for t in targets]
        return self.criterion(outputs, targets)
