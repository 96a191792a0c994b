"""SED's decoder as the config describes it."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode

from twostage.systems.one_stage.cost_aggregation.building import (
    build_class_aggregation,
    build_neighbours,
    build_spatial,
    cost_channels,
)
from twostage.systems.one_stage.cost_aggregation.fusion import UpsamplingFusion
from twostage.systems.one_stage.cost_aggregation.parts import DenseBackbone, PassLosses
from twostage.systems.one_stage.sed.decoder import CostGuidance, SEDDecoder, VisualGuidance, ViTGuidance
from twostage.systems.one_stage.sed.stage import DecoderStage, SpatialAggregation


def build_decoder(
    cfg: CfgNode, widths: Sequence[int], vit: DenseBackbone | None = None, losses: PassLosses | None = None
) -> SEDDecoder:
    """The decoder of `MODEL.SED` for a backbone whose stages (strides 4, 8, 16, 32) have `widths` channels.

    Args:
        vit: guides in the backbone's place.
        losses: what the layers report to.
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
        stages=[_stage(cfg, losses, index, *channels[index : index + 2]) for index in range(len(guidance))],
        channels=channels,
        visual_guidance=visual_guidance,
        cost_guidance=CostGuidance(cost_channels=cost, channels=guidance),
        class_block=keys.CLASS_BLOCK,
        neighbours=build_neighbours(cfg),
    )


def _stage(cfg: CfgNode, losses: PassLosses | None, index: int, channels: int, out_channels: int) -> DecoderStage:
    keys = cfg.MODEL.SED
    guidance = keys.GUIDANCE_CHANNELS[index]
    spatial = build_spatial(cfg, channels=channels, groups=keys.CLASS_HEADS)
    return DecoderStage(
        spatial=spatial or SpatialAggregation(channels=channels, kernel_size=keys.KERNEL_SIZES[index]),
        classes=build_class_aggregation(
            cfg,
            losses,
            channels=channels,
            heads=keys.CLASS_HEADS,
            train_pooling=keys.TRAIN_POOLING,
            test_pooling=keys.TEST_POOLING,
        ),
        fusion=UpsamplingFusion(
            in_channels=channels, out_channels=out_channels, visual_channels=guidance, cost_channels=guidance
        ),
    )
