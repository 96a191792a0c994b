"""SED: A Simple Encoder-Decoder for Open-Vocabulary Semantic Segmentation (Xie et al., CVPR 2024)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor
from torch.profiler import record_function

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.loading import load_clip_from_config
from twostage.clip.statistics import Pictures
from twostage.clip.towers.convnext import (
    dense_embeddings,
    hierarchical_features,
    require_convnext,
    set_regularisation,
    stage_strides,
    stage_widths,
)
from twostage.clip.towers.finetuning import train_parts
from twostage.inference.early_rejection import EarlyRejection, stack_kept
from twostage.predictions.dense import DensePrediction
from twostage.predictions.geometry import Geometry
from twostage.segmenter import OpenVocabularySegmenter, shared_arguments
from twostage.systems.one_stage.cost_aggregation.building import (
    build_backbone_guide,
    build_correlation,
    build_pass_losses,
    build_presence,
)
from twostage.systems.one_stage.cost_aggregation.losses import one_vs_rest_loss
from twostage.systems.one_stage.cost_aggregation.parts import Correlation, DenseBackbone, PassLosses, PresenceFilter
from twostage.systems.one_stage.cost_aggregation.squares import squares
from twostage.systems.one_stage.sed.building import build_decoder
from twostage.systems.one_stage.sed.decoder import ImageFeatures, SEDDecoder
from twostage.systems.one_stage.sed.weights import checkpoint_table


class Encoded(NamedTuple):
    """What SED knows about images without the vocabulary; `image_sizes` are those before padding."""

    features: ImageFeatures
    image_sizes: list[tuple[int, int]]


@META_ARCH_REGISTRY.register()
class SED(OpenVocabularySegmenter[Encoded, Tensor]):
    """A fine-tuned ConvNeXt CLIP whose cost map a convolutional decoder refines class by class."""

    decode_has_layers = True

    @configurable
    def __init__(
        self,
        *,
        decoder: SEDDecoder,
        resolution: int,
        finetune: str,
        early_rejection: EarlyRejection | None,
        correlation: Correlation | None = None,
        guide: DenseBackbone | None = None,
        presence: PresenceFilter | None = None,
        pass_losses: PassLosses | None = None,
        **shared: Any,
    ) -> None:
        """
        Args:
            resolution: side of the square that images are resized to.
            finetune: which of CLIP's parameters are trained, see `train_parts`.
            early_rejection: in evaluation, drops classes stage by stage.
            correlation: of dense embeddings with each other, before the cost map.
            guide: gives the decoder's visual guidance in place of the backbone's finer stages.
            presence: tells which classes an image shows; in evaluation only these go on.
            pass_losses: what the decoder's layers report in training.
            shared: see `OpenVocabularySegmenter`.
        """
        super().__init__(**shared)
        train_parts(self.clip, finetune)
        self.decoder = decoder
        self.resolution = resolution
        self.early_rejection = early_rejection
        self.correlation = correlation
        self.guide = guide
        self.presence = presence
        self.pass_losses = pass_losses

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.SED`, `MODEL.CLIP` and `TEST.EARLY_REJECTION`."""
        clip, tokenizer = load_clip_from_config(cfg)
        require_convnext(clip.visual, "SED")
        keys = cfg.MODEL.SED
        set_regularisation(clip.visual, drop_path=keys.CLIP_DROP_PATH, dropout=keys.CLIP_DROPOUT)
        # The finest grid that the decoder needs guidance on without upsampling is that of res4.
        guide = build_backbone_guide(cfg, cells=keys.RESOLUTION // stage_strides(clip.visual)[2])
        pass_losses = build_pass_losses(cfg)
        return {
            **shared_arguments(cfg, clip, tokenizer, size_divisibility=keys.SIZE_DIVISIBILITY, per_template=True),
            "decoder": build_decoder(cfg, stage_widths(clip.visual), guide, pass_losses),
            "resolution": keys.RESOLUTION,
            "finetune": cfg.MODEL.CLIP.FINETUNE,
            "early_rejection": EarlyRejection.from_config(cfg),
            "correlation": build_correlation(cfg),
            "guide": guide,
            "presence": build_presence(cfg, clip.text_projection.shape[1]),
            "pass_losses": pass_losses,
        }

    def checkpoint_table(self) -> CheckpointTable:
        """Official names of this model's tensors."""
        return checkpoint_table()

    def encode(self, images: Pictures) -> Encoded:
        with record_function("trunk"):
            pyramid = hierarchical_features(self.clip.visual, self._squares(images, self.resolution))
            embeddings = dense_embeddings(self.clip.visual, pyramid.res5)
        with record_function("guidance"):
            sources = [pyramid.res4, pyramid.res3, pyramid.res2]
            if self.guide is not None:
                sources = self.guide(images, self._squares)[::-1]
            guidance = self.decoder.visual_guidance(sources)
        correlated = None
        if self.correlation is not None:
            with record_function("correlation"):
                embeddings, correlated = self.correlation(embeddings, sources[0])
        return Encoded(ImageFeatures(embeddings, guidance, correlated), [(h, w) for h, w in images.image_sizes])

    def _squares(self, images: ImageList, side: int) -> Tensor:
        return squares(images, side, with_padding=self.training)

    def decode(self, encoded: Encoded, text: Tensor) -> DensePrediction:
        """Class probabilities, each class for itself; a class rejected early or held absent has probability 0."""
        results = [self.class_logits(encoded.features.image(index), text) for index in range(len(encoded.image_sizes))]
        # In place: with thousands of classes these are the largest tensors.
        probabilities, kept = stack_kept([logits.sigmoid_() for logits, _ in results], [kept for _, kept in results])
        height, width = probabilities.shape[-2:]
        # The published output is cut at the size of the fed image although it lies on the decoder's grid, so an image with
        # a side shorter than the grid loses part of it.
        cut = [(min(h, height), min(w, width)) for h, w in encoded.image_sizes]
        return DensePrediction(
            logits=probabilities,
            geometry=Geometry(padded=(height, width), images=cut),
            num_classes=len(text),
            kept=kept if self.early_rejection is not None or self.presence is not None else None,
            fill=0.0,
        )

    def class_logits(self, features: ImageFeatures, text: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[K, h, w]` of one image, and the classes `[K]` of `text` that they are for."""
        present = None
        if self.presence is not None:
            with record_function("presence"):
                present = self.presence.kept(features.embeddings, text)
        if present is None:
            return self.decoder.predict(features, text, self.early_rejection)
        logits, kept = self.decoder.predict(features, text[present], self.early_rejection)
        return logits, present[kept]

    def losses(
        self, encoded: Encoded, text: Tensor, batch: list[dict[str, Any]], images: ImageList
    ) -> dict[str, Tensor]:
        labels = torch.stack([entry["sem_seg"] for entry in batch]).to(images.tensor.device)
        *early, final = self.decoder(encoded.features, text)
        losses = {"loss_final": one_vs_rest_loss(final, labels)}
        if self.presence is not None:
            losses |= self.presence.losses(encoded.features.embeddings, text, labels)
        losses |= {f"loss_stage_{i}": one_vs_rest_loss(logits, labels) for i, logits in enumerate(early)}
        return losses if self.pass_losses is None else losses | self.pass_losses.take()
