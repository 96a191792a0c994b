"""CAT-Seg's trained parts from a config."""

from __future__ import annotations

from typing import Any, NamedTuple

from detectron2.config import CfgNode

from twostage.clip.statistics import PixelStatistics, PixelUnits
from twostage.errors import UserError
from twostage.proposals.backbones import build_backbone
from twostage.systems.one_stage.catseg.aggregator import Aggregator
from twostage.systems.one_stage.catseg.guides import BackboneGuide, Guide, TapGuide, ViTGuide
from twostage.systems.one_stage.cost_aggregation.building import (
    build_backbone_guide,
    build_class_aggregation,
    build_neighbours,
    build_spatial,
    cost_channels,
)
from twostage.systems.one_stage.cost_aggregation.layer import AggregatorLayer
from twostage.systems.one_stage.cost_aggregation.parts import PassLosses
from twostage.systems.one_stage.cost_aggregation.spatial_attention import SpatialAggregation


class GuideChannels(NamedTuple):
    """Channels of the maps that a guide gives."""

    appearance: int
    decoder: list[int]


def build_guide(cfg: CfgNode, visual: Any) -> tuple[Guide, GuideChannels]:
    """Where image guidance comes from, and the channels of its maps.

    Args:
        visual: CLIP's image tower.
    """
    keys = cfg.MODEL.CATSEG
    vit = build_backbone_guide(cfg, cells=keys.RESOLUTION // visual.patch_size[0])
    if vit is not None:
        guide = ViTGuide(vit=vit, channels=keys.TAP_CHANNELS)
        return guide, GuideChannels(vit.width, list(keys.TAP_CHANNELS))
    if not keys.BACKBONE.ENABLED:
        blocks = len(visual.transformer.resblocks)
        if not all(0 < tap < blocks for tap in keys.TAPS):
            raise UserError(
                f"MODEL.CATSEG.TAPS is {keys.TAPS}; {cfg.MODEL.CLIP.NAME!r} has {blocks} blocks, so 1 to {blocks - 1} are "
                "allowed"
            )
        taps = TapGuide(taps=keys.TAPS, width=visual.class_embedding.shape[0], channels=keys.TAP_CHANNELS)
        return taps, GuideChannels(visual.proj.shape[1], list(keys.TAP_CHANNELS))
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    units = PixelUnits(PixelStatistics(keys.BACKBONE.PIXEL_MEAN, keys.BACKBONE.PIXEL_STD))
    trained = cfg.SOLVER.BACKBONE_MULTIPLIER > 0
    return (
        BackboneGuide(backbone=backbone, side=keys.BACKBONE.RESOLUTION, units=units, trained=trained),
        GuideChannels(shapes["res4"].channels, [shapes["res3"].channels, shapes["res2"].channels]),
    )


def build_aggregator(cfg: CfgNode, visual: Any, channels: GuideChannels, losses: PassLosses | None) -> Aggregator:
    """The aggregator for CLIP's image tower `visual` and guidance of `channels`.

    Args:
        losses: what the layers report to.
    """
    keys = cfg.MODEL.CATSEG
    _check_grid(cfg, visual.patch_size[0])
    guidance = keys.GUIDANCE_CHANNELS if keys.EMBEDDING_GUIDANCE else 0
    return Aggregator(
        cost_channels=cost_channels(cfg),
        embedding=visual.proj.shape[1],
        appearance_source=channels.appearance,
        decoder_sources=channels.decoder,
        layers=[_layer(cfg, guidance, losses) for _ in range(keys.LAYERS)],
        channels=keys.CHANNELS,
        appearance_channels=guidance if keys.SPATIAL_AGGREGATION else 0,
        text_channels=guidance if keys.CLASS_AGGREGATION else 0,
        decoder_channels=keys.DECODER_CHANNELS,
        decoder_guidance=keys.DECODER_GUIDANCE_CHANNELS,
        cost=keys.AGGREGATE == "cost",
        neighbours=build_neighbours(cfg),
    )


def _layer(cfg: CfgNode, guidance: int, losses: PassLosses | None) -> AggregatorLayer:
    keys = cfg.MODEL.CATSEG
    spatial = classes = None
    if keys.SPATIAL_AGGREGATION:
        spatial = build_spatial(cfg, channels=keys.CHANNELS, groups=keys.HEADS, guidance_channels=guidance)
        spatial = spatial or SpatialAggregation(
            channels=keys.CHANNELS, guidance_channels=guidance, heads=keys.HEADS, window=keys.WINDOW
        )
    if keys.CLASS_AGGREGATION:
        classes = build_class_aggregation(
            cfg,
            losses,
            channels=keys.CHANNELS,
            heads=keys.HEADS,
            train_pooling=keys.POOLING,
            test_pooling=keys.TEST_POOLING,
            guidance_channels=guidance,
            slots=keys.CLASS_SLOTS,
        )
    return AggregatorLayer(spatial=spatial, classes=classes)


def _check_grid(cfg: CfgNode, patch: int) -> None:
    keys = cfg.MODEL.CATSEG
    side = keys.RESOLUTION // patch
    if keys.RESOLUTION % patch or side % keys.WINDOW:
        raise UserError(
            f"MODEL.CATSEG.RESOLUTION {keys.RESOLUTION} gives a grid of {keys.RESOLUTION / patch:g} patches of "
            f"{cfg.MODEL.CLIP.NAME!r}; it must be a multiple of MODEL.CATSEG.WINDOW {keys.WINDOW}"
        )
