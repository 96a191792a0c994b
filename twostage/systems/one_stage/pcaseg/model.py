"""PCA-Seg: parallel cost aggregation fused by experts (CVPR 2026), on CAT-Seg."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.loading import load_clip_from_config
from twostage.clip.towers.vit import Tokens, require_vit
from twostage.segmenter import shared_arguments
from twostage.systems.one_stage.catseg.building import build_layer, vit_shape
from twostage.systems.one_stage.catseg.model import CATSeg
from twostage.systems.one_stage.cost_aggregation.parts import PassLosses
from twostage.systems.one_stage.pcaseg.eva import dense_features, eva_shape, is_eva
from twostage.systems.one_stage.pcaseg.fusion import ExpertFusion
from twostage.systems.one_stage.pcaseg.layer import Orthogonality, ParallelBlock, ParallelLayer
from twostage.systems.one_stage.pcaseg.weights import checkpoint_table


@META_ARCH_REGISTRY.register()
class PCASeg(CATSeg):
    """CAT-Seg whose layers aggregate over pixels and classes side by side; on OpenAI's CLIP or on EVA02-CLIP."""

    @configurable
    def __init__(self, **arguments: Any) -> None:
        """With CAT-Seg's arguments."""
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.CATSEG`, `MODEL.PCASEG`, `MODEL.CLIP` and `TEST.SLIDING`."""
        clip, tokenizer = load_clip_from_config(cfg)
        if is_eva(clip.visual):
            tower = eva_shape(clip.visual)
        else:
            require_vit(clip.visual, "PCA-Seg")
            tower = vit_shape(clip.visual)
        losses = Orthogonality(weight=cfg.MODEL.PCASEG.ORTHOGONALITY_WEIGHT)
        shared = shared_arguments(
            cfg, clip, tokenizer, size_divisibility=cfg.MODEL.CATSEG.SIZE_DIVISIBILITY, per_template=True
        )
        return {**shared, **cls.own_arguments(cfg, tower, losses, build_parallel_layer)}

    def checkpoint_table(self) -> CheckpointTable:
        """How official checkpoints relate to this model."""
        return checkpoint_table(eva=is_eva(self.clip.visual))

    def dense_features(self, images: Tensor) -> tuple[Tokens, dict[int, Tokens]]:
        """As CAT-Seg's; of EVA02 unit embeddings."""
        if is_eva(self.clip.visual):
            return dense_features(self.clip.visual, images, self.guide.taps)
        return super().dense_features(images)


def build_parallel_layer(cfg: CfgNode, guidance: int, losses: PassLosses | None) -> nn.Module:
    """PCA-Seg's layer in the place of CAT-Seg's, of the same parts."""
    assert isinstance(losses, Orthogonality), "what `PCASeg.from_config` made"
    blocks = []
    for _ in range(2):
        parts = build_layer(cfg, guidance, None)
        assert parts.spatial is not None and parts.classes is not None, "checked with the keys"
        fusion = ExpertFusion(channels=cfg.MODEL.CATSEG.CHANNELS, experts=cfg.MODEL.PCASEG.EXPERTS)
        blocks.append(ParallelBlock(spatial=parts.spatial, classes=parts.classes, fusion=fusion, losses=losses))
    return ParallelLayer(blocks=blocks)
