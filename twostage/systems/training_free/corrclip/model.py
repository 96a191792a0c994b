"""CorrCLIP: CLIP's last block attends within masks, by DINO's affinities."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor

from twostage.clip.statistics import Pictures
from twostage.errors import UserError
from twostage.foundation.vit import FoundationVit
from twostage.systems.mask_sources.building import mask_source_from_config
from twostage.systems.mask_sources.contract import MaskSource, PicturesWithMasks, fitted_labels
from twostage.systems.training_free.borrowed import BorrowedAffinities
from twostage.systems.training_free.corrclip.keys import spatial_blocks
from twostage.systems.training_free.corrclip.prediction import MaskedPrediction
from twostage.systems.training_free.corrclip.tower import CorrTower
from twostage.systems.training_free.dense_clip.model import NameEmbeddings, PatchEmbeddings

# What masks are padded with; a region of its own, so it must be no mask's number.
PADDING = 10_000


@META_ARCH_REGISTRY.register()
class CorrClip(BorrowedAffinities):
    """Frozen CLIP, frozen DINO, and masks from anywhere (`MODEL.MASKS`)."""

    system = "CorrCLIP"

    @configurable
    def __init__(self, *, masks: MaskSource, tower_settings: dict[str, Any], **borrowed: Any) -> None:
        """See `keys.py`; `tower_settings` are `CorrTower`'s, `borrowed` is `BorrowedAffinities`'."""
        super().__init__(**borrowed)
        self.masks = masks
        self.tower = self.corr_tower = CorrTower(
            visual=self.tower.visual, position_rule=self.tower.position_rule, **tower_settings
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.CORRCLIP`, `MODEL.MASKS` and what `BorrowedAffinities` reads."""
        made = super().from_config(cfg)
        keys = cfg.MODEL.CORRCLIP
        return {
            **made,
            "masks": mask_source_from_config(cfg),
            "tower_settings": {
                "spatial_blocks": spatial_blocks(cfg, len(made["clip"].visual.transformer.resblocks)),
                "spatial_weight": keys.SPATIAL_WEIGHT,
                "semantic_weight": keys.SEMANTIC_WEIGHT,
                "factor": keys.FACTOR,
                "merge_distance": keys.MERGE_DISTANCE,
                "multiple": keys.WINDOW_MULTIPLE,
            },
        }

    def preprocess(self, batch: list[dict[str, Any]]) -> Pictures:
        """As every system's, with the masks of each picture."""
        return PicturesWithMasks.of(batch, self.units, self.masks)

    def encode(self, images: ImageList) -> list[PatchEmbeddings]:
        """Features of each image, its windows in batches; `beside` are its masks `[H, W]` at its own size."""
        assert isinstance(images, PicturesWithMasks), "what `preprocess` makes"
        return [
            self._encode_masked(self.units(pixels), masks)
            for pixels, masks in zip(images.pixels, images.masks, strict=True)
        ]

    def _encode_masked(self, image: Tensor, masks: Tensor) -> PatchEmbeddings:
        size = (image.shape[-2], image.shape[-1])
        mosaic = self.mosaic_of(size)
        if bool((masks == PADDING).any()):
            raise UserError(
                f"a picture has a mask numbered {PADDING}, as padding is; number its masks otherwise, or have fewer of them"
            )
        windows = mosaic.cut(image)
        # Padding is zero there, so the pad value is taken off before and put on again.
        regions = mosaic.cut(fitted_labels(masks, size)[None] - PADDING)[:, 0] + PADDING
        parts = [
            self.embed_windows(some, own)
            for some, own in zip(
                windows.split(self.windows_per_batch), regions.split(self.windows_per_batch), strict=True
            )
        ]
        return PatchEmbeddings(
            features=mosaic.assemble(F.normalize(torch.cat(parts), dim=1)),
            mosaic=mosaic,
            class_embeddings=None,
            keys=None,
            guide=image if self.pamr_steps else None,
            beside=masks,
        )

    def embed_windows(self, windows: Tensor, masks: Tensor) -> Tensor:
        """Embeddings `[B, D, h, w]` of normalised windows `[B, 3, H, W]` with label maps `[B, H, W]`."""
        unit, grid = self.affinity_features(windows)
        return self.corr_tower.embed_regions(windows, unit, grid, masks)

    def affinity_features(self, windows: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Unit features `[B, n, C]` and their grid: queries plus keys of the foundation model's last block, or CLIP's own
        patches in front of its last block."""
        if isinstance(self.foundation, FoundationVit):
            x, grid = self.foundation.last_input(self.in_foundation_units(windows))
            queries, keys, _ = self.foundation.last_qkv(x).chunk(3, dim=-1)
            return F.normalize((queries + keys)[:, self.foundation.prefix_tokens :], dim=-1), grid
        tokens = self.tower.before_last(windows)
        return F.normalize(tokens.x[:, tokens.class_tokens :], dim=-1), tokens.grid

    def decode(self, encoded: list[PatchEmbeddings], text: NameEmbeddings) -> MaskedPrediction:
        plain = super().decode(encoded, text)
        fields = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
        return MaskedPrediction(**fields, masks=[image.beside for image in encoded])
