"""Mask-Adapter: The Devil is in the Masks for Open-Vocabulary Segmentation (Li et al., CVPR 2025)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.profiler import record_function

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.regions.contract import Regions
from twostage.clip.towers.convnext import require_convnext
from twostage.clip.towers.pyramid import feature_pyramid
from twostage.predictions.geometry import Geometry
from twostage.proposals.losses import mask_targets
from twostage.systems.two_stage.fcclip.model import FCCLIP, SynonymText, with_void
from twostage.systems.two_stage.heads import DenseCLIP, EncodedMasks, synonym_logits
from twostage.systems.two_stage.maftp.transfer import Cells, Transfer, dense_clip
from twostage.systems.two_stage.mask_adapter import mixing
from twostage.systems.two_stage.mask_adapter.adapter import MaskMaps, adapted_embeddings
from twostage.systems.two_stage.mask_adapter.mixing import PADDING, Mixing
from twostage.systems.two_stage.mask_adapter.regions import adapter_from_config
from twostage.systems.two_stage.mask_adapter.weights import checkpoint_table, load_adapter, load_base

Phase = Literal["warmup", "mixed"]


@META_ARCH_REGISTRY.register()
class MaskAdapter(FCCLIP):
    """FC-CLIP, or MAFT+, whose masks are read through weight maps that a small network makes of them.

    Trainable: the network; in the warm-up a void embedding of its own, which ends with it; on FC-CLIP then the base's.
    """

    @configurable
    def __init__(
        self,
        *,
        adapter: MaskMaps,
        transfer: Transfer | None,
        cells: Cells,
        phase: Phase,
        mixing: Mixing,
        class_weight: float,
        cosine_weight: float,
        query_chunk: int,
        base_weights: str,
        warmed_up: str,
        **fcclip: Any,
    ) -> None:
        """
        Args:
            transfer: MAFT+'s; None on FC-CLIP.
            cells: how CLIP's last stage is read for the adapter and the transfer, see `dense_clip`.
            class_weight, cosine_weight: factors of the losses.
            query_chunk: masks that go through the adapter at a time at inference.
            base_weights, warmed_up: see `MODEL.MASK_ADAPTER`; "" for none.
            fcclip: see `FCCLIP`.
        """
        super().__init__(**fcclip)
        self.transfer = transfer
        self.requires_grad_(False)
        self.adapter = adapter
        self.cells = cells
        self.phase = phase
        self.mixing = mixing
        self.class_weight = class_weight
        self.cosine_weight = cosine_weight
        self.query_chunk = query_chunk
        self.warmup_void = nn.Embedding(1, self.void_embedding.embedding_dim) if phase == "warmup" else None
        self.void_embedding.requires_grad_(phase == "mixed" and transfer is None)
        if base_weights:
            load_base(self, None if transfer is None else transfer.form, base_weights)
        if warmed_up:
            load_adapter(self, self.base, warmed_up)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.MASK_ADAPTER`, FC-CLIP's keys and, on MAFT+, `MODEL.MAFTP`."""
        arguments, keys, transfer = FCCLIP.from_config(cfg), cfg.MODEL.MASK_ADAPTER, cfg.MODEL.MAFTP
        clip = arguments["clip"]
        require_convnext(clip.visual, "Mask-Adapter")
        embedding = clip.text_projection.shape[1]
        on_maftp, warmup = keys.BASE == "maftp", keys.PHASE == "warmup"
        return {
            **arguments,
            "adapter": adapter_from_config(cfg, embedding),
            "transfer": Transfer(width=embedding, heads=transfer.HEADS, form=transfer.TRANSFER) if on_maftp else None,
            "cells": transfer.CELLS if on_maftp else "aligned",
            "phase": keys.PHASE,
            "mixing": Mixing(
                truths=keys.TRUTHS,
                pairs=0 if warmup else keys.PAIRS,
                probability=keys.PAIR_PROBABILITY,
                overlap=keys.PAIR_IOU,
                threshold=keys.MASK_THRESHOLD,
            ),
            "class_weight": keys.CLASS_WEIGHT,
            "cosine_weight": keys.COSINE_WEIGHT,
            "query_chunk": keys.QUERY_CHUNK,
            # A checkpoint of ours holds all of it.
            "base_weights": "" if cfg.MODEL.WEIGHTS else keys.BASE_WEIGHTS,
            "warmed_up": "" if cfg.MODEL.WEIGHTS else keys.WARMED_UP,
        }

    @property
    def base(self) -> str:
        """As `MODEL.MASK_ADAPTER.BASE`."""
        return "fcclip" if self.transfer is None else "maftp"

    def checkpoint_table(self) -> CheckpointTable:
        """Official names of this model's tensors."""
        return checkpoint_table(self.base, self.phase)

    def train(self, mode: bool = True) -> MaskAdapter:
        """All but the adapter stays in evaluation mode; of the decoder the last output is wanted alone."""
        super().train(mode)
        for part in (self.pixel_decoder, self.decoder):
            part.eval()
        return self

    def encode(self, images: ImageList) -> EncodedMasks:
        with torch.no_grad():
            with record_function("trunk"):
                pyramid = feature_pyramid(self.clip.visual, images.tensor)
            res5 = pyramid["res5"].float()
            with record_function("dense clip"):
                dense = DenseCLIP(res5, dense_clip(self.clip.visual, res5, self.cells))
            outputs = [] if self.training and self.phase == "warmup" else self.mask_outputs(pyramid)
        with record_function("mask adapter"):
            regions = None if self.training else self._adapted(outputs[0][0], dense)
        return EncodedMasks(outputs, Geometry.of(images), regions, dense)

    def _adapted(self, mask_logits: Tensor, dense: DenseCLIP) -> Regions:
        """What CLIP sees through the maps of the final masks `[B, Q, h, w]`; an empty mask has maps as well."""
        masks = mask_logits.sigmoid() > self.mixing.threshold
        embeddings = adapted_embeddings(self.adapter, self.clip.visual, dense, masks, self.query_chunk)
        return Regions(embeddings, masks.new_ones(masks.shape[:2]))

    def region_logits(self, encoded: EncodedMasks, text: SynonymText) -> Tensor:
        assert encoded.regions is not None, "encoded in training mode"
        return self.adapted_logits(encoded.regions.embeddings, encoded, text, self.void_embedding)

    def adapted_logits(
        self, embeddings: Tensor, encoded: EncodedMasks, text: SynonymText, void: nn.Embedding
    ) -> Tensor:
        """Logits `[B, N, C + 1]`, void last, of adapted embeddings `[B, N, D]`."""
        names, classes = with_void(text, void)
        if self.transfer is not None:
            assert encoded.dense is not None
            names = self.transfer(names, encoded.dense.embeddings)
        return synonym_logits(embeddings, names, classes, self.clip.logit_scale, text.seen.shape[0] + 1)

    def losses(
        self, encoded: EncodedMasks, text: SynonymText, batch: list[dict[str, Any]], images: ImageList
    ) -> dict[str, Tensor]:
        assert encoded.dense is not None
        size = encoded.geometry.padded
        targets = mask_targets(batch, size, images.tensor.device)
        drawn = [self.mixing.draw_truths(target) for target in targets]
        masks, labels = mixing.stacked(drawn, mixing.most(drawn))
        truths = masks.shape[1]
        if self.mixing.pairs:
            pairs = [self.mixing.draw_pairs(m, t) for m, t in zip(encoded.outputs[0][0], targets, strict=True)]
            proposals, partners = zip(*(self.mixing.paired_masks(p, size) for p in pairs), strict=True)
            paired = torch.stack([p.labels for p in pairs])
            masks = torch.cat([masks, torch.stack(proposals), torch.stack(partners)], dim=1)
            labels = torch.cat([labels, paired, paired], dim=1)
        embeddings = adapted_embeddings(self.adapter, self.clip.visual, encoded.dense, masks)
        logits = self.adapted_logits(embeddings, encoded, text, self.warmup_void or self.void_embedding)
        losses = {"loss_ce": self.class_weight * class_loss(logits, labels)}
        if self.mixing.pairs:
            found, wanted = embeddings[:, truths:].chunk(2, dim=1)
            # As published, the ground truth's embedding learns from it on MAFT+ alone.
            wanted = wanted.detach() if self.transfer is None else wanted
            losses["loss_cosine"] = self.cosine_weight * (1 - F.cosine_similarity(found, wanted, dim=-1).mean())
        return losses


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits `[B, N, C + 1]`, mean over the masks with a label `[B, N]`; 0 where there is none.

    No mask is void, so that void is a class that is never right.
    """
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PADDING, reduction="sum")
    return total / (labels != PADDING).sum().clamp(min=1)
