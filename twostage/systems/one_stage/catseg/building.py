"""CAT-Seg's trained parts from a config."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from torch import nn

from twostage.clip.templates import TEMPLATES
from twostage.errors import UserError
from twostage.systems.one_stage.catseg.aggregator import Aggregator, AggregatorLayer
from twostage.systems.one_stage.cost_aggregation.class_attention import ClassAggregation
from twostage.systems.one_stage.cost_aggregation.spatial_attention import SpatialAggregation


def build_aggregator(cfg: CfgNode, visual: Any) -> tuple[Aggregator, nn.ModuleList]:
    """The aggregator, and the transposed convolutions that bring tapped CLIP blocks to the decoder's grids.

    Args:
        visual: CLIP's image tower.
    """
    keys = cfg.MODEL.CATSEG
    _check_grid(cfg, visual.patch_size[0])
    width = visual.class_embedding.shape[0]
    upsampling = nn.ModuleList(
        nn.ConvTranspose2d(width, channels, kernel_size=scale, stride=scale)
        for channels, scale in zip(keys.TAP_CHANNELS, (2, 4), strict=True)
    )
    guidance = keys.GUIDANCE_CHANNELS if keys.EMBEDDING_GUIDANCE else 0
    aggregator = Aggregator(
        templates=len(TEMPLATES[cfg.MODEL.CLIP.TEMPLATES]),
        embedding=visual.proj.shape[1],
        tap_channels=keys.TAP_CHANNELS,
        layers=[_layer(keys, guidance) for _ in range(keys.LAYERS)],
        channels=keys.CHANNELS,
        appearance_channels=guidance if keys.SPATIAL_AGGREGATION else 0,
        text_channels=guidance if keys.CLASS_AGGREGATION else 0,
        decoder_channels=keys.DECODER_CHANNELS,
        decoder_guidance=keys.DECODER_GUIDANCE_CHANNELS,
        cost=keys.AGGREGATE == "cost",
    )
    return aggregator, upsampling


def _layer(keys: CfgNode, guidance: int) -> AggregatorLayer:
    spatial = classes = None
    if keys.SPATIAL_AGGREGATION:
        spatial = SpatialAggregation(
            channels=keys.CHANNELS, guidance_channels=guidance, heads=keys.HEADS, window=keys.WINDOW
        )
    if keys.CLASS_AGGREGATION:
        classes = ClassAggregation(
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
