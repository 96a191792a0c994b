"""SAN: Side Adapter Network for Open-Vocabulary Semantic Segmentation (Xu et al., CVPR 2023)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.loading import load_clip_from_config
from twostage.clip.regions.shadow_tokens import recognise_masks
from twostage.clip.towers.vit import embed_image, require_vit, run_blocks
from twostage.errors import UserError
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.proposals.losses import MaskLosses
from twostage.segmenter import OpenVocabularySegmenter, shared_arguments
from twostage.systems.two_stage.heads import EncodedMasks, TextClassifier, mask_losses
from twostage.systems.two_stage.san.side_adapter import SideAdapter
from twostage.systems.two_stage.san.weights import checkpoint_table


@META_ARCH_REGISTRY.register()
class SAN(OpenVocabularySegmenter[EncodedMasks, Tensor]):
    """A frozen CLIP with a side adapter that proposes masks and tells CLIP where to look.

    Trainable: the side adapter, CLIP's visual position embedding and the void embedding.
    """

    @configurable
    def __init__(
        self,
        *,
        side_adapter: SideAdapter,
        criterion: MaskLosses,
        clip_resolution: float,
        split_block: int,
        **shared: Any,
    ) -> None:
        """
        Args:
            clip_resolution: scale of CLIP's input relative to the side adapter's.
            split_block: CLIP blocks before it extract features, the rest recognise masks.
            shared: see `OpenVocabularySegmenter`.
        """
        super().__init__(**shared)
        self.clip.requires_grad_(False)
        self.clip.visual.positional_embedding.requires_grad_(True)
        self.side_adapter = side_adapter
        self.criterion = criterion
        self.clip_resolution = clip_resolution
        self.split_block = split_block
        width = self.clip.visual.proj.shape[1]
        self.void_embedding = nn.Parameter(torch.randn(1, width) * width**-0.5)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.SAN`, `MODEL.CLIP` and `MODEL.MASK_LOSS`."""
        clip, tokenizer = load_clip_from_config(cfg)
        require_vit(clip.visual, "SAN")
        keys = cfg.MODEL.SAN
        blocks = clip.visual.transformer.resblocks
        if not 0 < keys.SPLIT_BLOCK < len(blocks):
            raise UserError(
                f"MODEL.SAN.SPLIT_BLOCK is {keys.SPLIT_BLOCK}; {cfg.MODEL.CLIP.NAME!r} has {len(blocks)} blocks, so 1 to "
                f"{len(blocks) - 1} are allowed"
            )
        pairs = [tuple(int(part) for part in entry.split("->")) for entry in keys.FUSION_MAP]
        side_adapter = SideAdapter(
            clip_width=clip.visual.class_embedding.shape[0],
            clip_heads=blocks[0].attn.num_heads,
            width=keys.WIDTH,
            depth=keys.DEPTH,
            heads=keys.HEADS,
            patch_size=keys.PATCH_SIZE,
            image_size=keys.IMAGE_SIZE,
            num_queries=keys.NUM_QUERIES,
            fusion_map={side: source for source, side in pairs},
            auxiliary_blocks=keys.AUXILIARY_BLOCKS,
            decoder_channels=keys.DECODER_CHANNELS,
        )
        return {
            **shared_arguments(cfg, clip, tokenizer, size_divisibility=keys.SIZE_DIVISIBILITY),
            "side_adapter": side_adapter,
            "criterion": MaskLosses.from_config(cfg),
            "clip_resolution": keys.CLIP_RESOLUTION,
            "split_block": keys.SPLIT_BLOCK,
        }

    def checkpoint_table(self) -> CheckpointTable:
        """Official names of this model's tensors."""
        return checkpoint_table(self.split_block)

    def encode(self, images: ImageList) -> EncodedMasks:
        visual = self.clip.visual
        blocks = list(visual.transformer.resblocks)
        clip_input = images.tensor
        if self.clip_resolution != 1:
            # The scale factor itself, not the size, is handed over: it sets where samples lie when H * s is no integer.
            clip_input = F.interpolate(
                clip_input, scale_factor=self.clip_resolution, mode="bilinear", align_corners=False
            )
        taps = set(self.side_adapter.fusion_map.values())
        tokens, tapped = run_blocks(blocks[: self.split_block], embed_image(visual, clip_input), taps)
        proposals = self.side_adapter(images.tensor, {index: t.patch_map for index, t in tapped.items()})
        # Final and auxiliary masks go through the recognition blocks together.
        bias = torch.cat([p.attention_bias for p in proposals], dim=2)
        embeddings = recognise_masks(visual, blocks[self.split_block :], tokens, bias).chunk(len(proposals), dim=1)
        outputs = [(p.mask_logits, e) for p, e in zip(proposals, embeddings, strict=True)]
        return EncodedMasks(outputs, Geometry.of(images))

    def classifier(self, text: Tensor) -> TextClassifier:
        """Of unit mask embeddings, by CLIP's own logit scale; `text` is normalised once more, as published."""
        scale = self.clip.logit_scale.exp()
        return TextClassifier.scaled(F.normalize(text, dim=-1), self.void_embedding, scale)

    def decode(self, encoded: EncodedMasks, text: Tensor) -> MaskPrediction:
        mask_logits, embeddings = encoded.outputs[0]
        class_logits = self.classifier(text)(embeddings)
        return MaskPrediction(mask_logits=mask_logits, class_logits=class_logits, geometry=encoded.geometry)

    def losses(
        self, encoded: EncodedMasks, text: Tensor, batch: list[dict[str, Any]], images: ImageList
    ) -> dict[str, Tensor]:
        return mask_losses(self.criterion, encoded, self.classifier(text), batch)
