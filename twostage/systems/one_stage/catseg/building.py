"""CAT-Seg's trained parts from a config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from torch import nn

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


class TowerShape(NamedTuple):
    """Of CLIP's image tower: side of a patch in pixels, token width, embedding size D, number of blocks."""

    patch: int
    width: int
    embedding: int
    blocks: int


# Makes a layer from a config, the channels of its guidance and what it reports to.
LayerBuilder = Callable[[CfgNode, int, PassLosses | None], nn.Module]


def vit_shape(visual: Any) -> TowerShape:
    """Of open_clip's own ViT."""
    width, embedding = visual.proj.shape
    return TowerShape(visual.patch_size[0], width, embedding, len(visual.transformer.resblocks))


def build_guide(cfg: CfgNode, tower: TowerShape) -> tuple[Guide, GuideChannels]:
    """Where image guidance comes from, and the channels of its maps."""
    keys = cfg.MODEL.CATSEG
    vit = build_backbone_guide(cfg, cells=keys.RESOLUTION // tower.patch)
    if vit is not None:
        guide = ViTGuide(vit=vit, channels=keys.TAP_CHANNELS)
        return guide, GuideChannels(vit.width, list(keys.TAP_CHANNELS))
    if not keys.BACKBONE.ENABLED:
        if not all(0 < tap < tower.blocks for tap in keys.TAPS):
            raise UserError(
                f"MODEL.CATSEG.TAPS is {keys.TAPS}; {cfg.MODEL.CLIP.NAME!r} has {tower.blocks} blocks, so 1 to "
                f"{tower.blocks - 1} are allowed"
            )
        taps = TapGuide(taps=keys.TAPS, width=tower.width, channels=keys.TAP_CHANNELS)
        return taps, GuideChannels(tower.embedding, list(keys.TAP_CHANNELS))
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    units = PixelUnits(PixelStatistics(keys.BACKBONE.PIXEL_MEAN, keys.BACKBONE.PIXEL_STD))
    trained = cfg.SOLVER.BACKBONE_MULTIPLIER > 0
    return (
        BackboneGuide(backbone=backbone, side=keys.BACKBONE.RESOLUTION, units=units, trained=trained),
        GuideChannels(shapes["res4"].channels, [shapes["res3"].channels, shapes["res2"].channels]),
    )


def build_layer(cfg: CfgNode, guidance: int, losses: PassLosses | None) -> AggregatorLayer:
    """CAT-Seg's layer, with `guidance` channels of guidance."""
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


def build_aggregator(
    cfg: CfgNode,
    tower: TowerShape,
    channels: GuideChannels,
    losses: PassLosses | None,
    layer: LayerBuilder = build_layer,
) -> Aggregator:
    """The aggregator for a CLIP of shape `tower` and guidance of `channels`.

    Args:
        losses: what the layers report to.
        layer: makes each of them.
    """
    keys = cfg.MODEL.CATSEG
    _check_grid(cfg, tower.patch)
    guidance = keys.GUIDANCE_CHANNELS if keys.EMBEDDING_GUIDANCE else 0
    return Aggregator(
        cost_channels=cost_channels(cfg),
        embedding=tower.embedding,
        appearance_source=channels.appearance,
        decoder_sources=channels.decoder,
        layers=[layer(cfg, guidance, losses) for _ in range(keys.LAYERS)],
        channels=keys.CHANNELS,
        appearance_channels=guidance if keys.SPATIAL_AGGREGATION else 0,
        text_channels=guidance if keys.CLASS_AGGREGATION else 0,
        decoder_channels=keys.DECODER_CHANNELS,
        decoder_guidance=keys.DECODER_GUIDANCE_CHANNELS,
        cost=keys.AGGREGATE == "cost",
        neighbours=build_neighbours(cfg),
    )


def _check_grid(cfg: CfgNode, patch: int) -> None:
    keys = cfg.MODEL.CATSEG
    side = keys.RESOLUTION // patch
    if keys.RESOLUTION % patch or side % keys.WINDOW:
        raise UserError(
            f"MODEL.CATSEG.RESOLUTION {keys.RESOLUTION} gives a grid of {keys.RESOLUTION / patch:g} patches of "
            f"{cfg.MODEL.CLIP.NAME!r}; it must be a multiple of MODEL.CATSEG.WINDOW {keys.WINDOW}"
        )
