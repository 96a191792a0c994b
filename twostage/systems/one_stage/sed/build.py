"""SED's decoder as the config describes it."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from torch import nn

from twostage.systems.one_stage.cost_aggregation.building import build_class_aggregation, cost_channels, nearest_count
from twostage.systems.one_stage.cost_aggregation.fusion import UpsamplingFusion
from twostage.systems.one_stage.cost_aggregation.variants.deformable import DeformableAggregation
from twostage.systems.one_stage.cost_aggregation.variants.frozen_vit import FrozenViT
from twostage.systems.one_stage.sed.decoder import CostGuidance, SEDDecoder, VisualGuidance, ViTGuidance
from twostage.systems.one_stage.sed.stage import DecoderStage, SpatialAggregation


def build_decoder(cfg: CfgNode, widths: Sequence[int], vit: FrozenViT | None = None) -> SEDDecoder:
    """The decoder of `MODEL.SED` for a backbone whose stages (strides 4, 8, 16, 32) have `widths` channels.

    Args:
        vit: guides in the backbone's place.
    """
    keys = cfg.MODEL.SED
    cost = cost_channels(cfg)
    channels = [keys.HIDDEN_CHANNELS, *keys.DECODER_CHANNELS]
    guidance = list(keys.GUIDANCE_CHANNELS)
    res2, res3, res4, _ = widths
    if vit is None:
        visual_guidance = VisualGuidance(in_channels=[res4, res3, res2], out_channels=guidance)
    else:
        visual_guidance = ViTGuidance(in_channels=[vit.width] * 3, out_channels=guidance)
    return SEDDecoder(
        cost_channels=cost,
        stages=[_build_stage(cfg, index, *channels[index : index + 2]) for index in range(len(guidance))],
        channels=channels,
        visual_guidance=visual_guidance,
        cost_guidance=CostGuidance(cost_channels=cost, channels=guidance),
        class_block=keys.CLASS_BLOCK,
        nearest=nearest_count(cfg),
    )


def _build_stage(cfg: CfgNode, index: int, channels: int, out_channels: int) -> DecoderStage:
    keys = cfg.MODEL.SED
    guidance = keys.GUIDANCE_CHANNELS[index]
    if cfg.MODEL.COST_AGGREGATION.SPATIAL == "deformable":
        spatial: nn.Module = DeformableAggregation(channels=channels, groups=keys.CLASS_HEADS)
    else:
        spatial = SpatialAggregation(channels=channels, kernel_size=keys.KERNEL_SIZES[index])
    return DecoderStage(
        spatial=spatial,
        classes=build_class_aggregation(
            cfg,
            channels=channels,
            heads=keys.CLASS_HEADS,
            train_pooling=keys.TRAIN_POOLING,
            test_pooling=keys.TEST_POOLING,
        ),
        fusion=UpsamplingFusion(
            in_channels=channels, out_channels=out_channels, visual_channels=guidance, cost_channels=guidance
        ),
    )
