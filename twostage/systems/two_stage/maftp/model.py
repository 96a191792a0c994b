"""MAFT+: Collaborative Vision-Text Representation Optimizing for Open-Vocabulary Segmentation (Jiao et al., ECCV 2024)."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor
from torch.profiler import record_function

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.towers.convnext import require_convnext
from twostage.clip.towers.pyramid import feature_pyramid
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.proposals.losses import mask_targets
from twostage.systems.two_stage.ensemble import GeometricEnsemble
from twostage.systems.two_stage.fcclip.model import FCCLIP, SynonymText, with_void
from twostage.systems.two_stage.heads import DenseCLIP, EncodedMasks, mask_losses, synonym_logits
from twostage.systems.two_stage.maftp.losses import compensation_loss, mask_aware_loss
from twostage.systems.two_stage.maftp.teacher import Teacher
from twostage.systems.two_stage.maftp.transfer import Cells, Transfer, dense_clip
from twostage.systems.two_stage.maftp.weights import checkpoint_table


@META_ARCH_REGISTRY.register()
class MAFTPlus(FCCLIP):
    """FC-CLIP whose CLIP trunk is trained and whose class embeddings look at the picture; CLIP alone names the masks.

    Trainable: the trunk's stem and stages, the decoders and heads, the void embedding and the transfer.
    """

    @configurable
    def __init__(
        self,
        *,
        transfer: Transfer,
        cells: Cells,
        mask_aware_weight: float,
        compensation_weight: float,
        teacher: Teacher,
        **fcclip: Any,
    ) -> None:
        """
        Args:
            cells: see `dense_clip`.
            mask_aware_weight, compensation_weight: factors of the losses; 0 leaves one out.
            fcclip: see `FCCLIP`; the ensemble is not used.
        """
        super().__init__(**fcclip)
        self.transfer = transfer
        self.cells = cells
        self.mask_aware_weight = mask_aware_weight
        self.compensation_weight = compensation_weight
        self.teacher = teacher
        for part in (self.clip.visual.trunk.stem, self.clip.visual.trunk.stages):
            part.requires_grad_(True)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.MAFTP` and FC-CLIP's keys."""
        arguments, keys = FCCLIP.from_config(cfg), cfg.MODEL.MAFTP
        clip = arguments["clip"]
        require_convnext(clip.visual, "MAFT+")
        return {
            **arguments,
            "transfer": Transfer(width=clip.text_projection.shape[1], heads=keys.HEADS, form=keys.TRANSFER),
            "cells": keys.CELLS,
            "mask_aware_weight": keys.MASK_AWARE_WEIGHT,
            "compensation_weight": keys.COMPENSATION_WEIGHT,
            "teacher": Teacher(cfg.MODEL.CLIP),
        }

    def checkpoint_table(self) -> CheckpointTable:
        """Official names of this model's tensors."""
        return checkpoint_table(self.transfer.form)

    def encode(self, images: ImageList) -> EncodedMasks:
        with record_function("trunk"):
            pyramid = feature_pyramid(self.clip.visual, images.tensor)
        # The decoder's losses do not reach the trunk.
        outputs = self.mask_outputs({name: stage.detach() for name, stage in pyramid.items()})
        res5 = pyramid["res5"].float()
        with record_function("mask pooling"):
            regions = self._regions(outputs[0][0], res5)
        with record_function("dense clip"):
            dense = DenseCLIP(res5, dense_clip(self.clip.visual, res5, self.cells))
        return EncodedMasks(outputs, Geometry.of(images), regions, dense)

    def region_logits(self, encoded: EncodedMasks, text: SynonymText) -> Tensor:
        """Logits `[B, Q, C + 1]` of what CLIP sees in the masks, void last, by each picture's own class embeddings."""
        assert encoded.regions is not None and encoded.dense is not None
        names, classes = with_void(text, self.void_embedding)
        transferred = self.transfer(names, encoded.dense.embeddings)
        num_classes = text.seen.shape[0] + 1
        return synonym_logits(encoded.regions.embeddings, transferred, classes, self.clip.logit_scale, num_classes)

    def decode(self, encoded: EncodedMasks, text: SynonymText) -> MaskPrediction:
        mask_logits, embeddings = encoded.outputs[0]
        # Of the decoder's own scores only void's is used.
        void = self.class_logits(embeddings, text, self.logit_scale).softmax(dim=-1)[..., -1:]
        classes = self.region_logits(encoded, text)[..., :-1]
        return MaskPrediction(
            mask_logits=mask_logits,
            class_logits=GeometricEnsemble.against_void(classes, void),
            geometry=encoded.geometry,
            resize_scores=self.resize_scores,
        )

    def losses(
        self, encoded: EncodedMasks, text: SynonymText, batch: list[dict[str, Any]], images: ImageList
    ) -> dict[str, Tensor]:
        assert encoded.dense is not None
        losses = mask_losses(
            self.criterion, encoded, lambda embeddings: self.class_logits(embeddings, text, self.logit_scale), batch
        )
        if self.mask_aware_weight:
            classes = self.region_logits(encoded, text)[..., :-1]
            targets = mask_targets(batch, encoded.geometry.padded, images.tensor.device)
            loss = mask_aware_loss(classes, encoded.outputs[0][0], targets)
            losses["loss_mask_aware"] = self.mask_aware_weight * loss
        if self.compensation_weight:
            loss = compensation_loss(encoded.dense.res5, self.teacher.res5(images.tensor))
            losses["loss_compensation"] = self.compensation_weight * loss
        return losses
