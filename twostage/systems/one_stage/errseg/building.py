"""ERR-Seg's aggregator as the config describes it."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from twostage.clip.templates import TEMPLATES
from twostage.clip.towers.convnext import stage_strides, stage_widths
from twostage.errors import UserError
from twostage.systems.one_stage.cost_aggregation.layer import AggregatorLayer
from twostage.systems.one_stage.errseg.aggregator import Aggregator
from twostage.systems.one_stage.errseg.layers import ClassAggregation, SpatialAggregation


def build_aggregator(cfg: CfgNode, visual: Any, embedding: int) -> Aggregator:
    """For CLIP's image tower `visual` and text embeddings of size `embedding`.

    Raises:
        UserError: the stages of CLIP would not lie on grids that double.
    """
    keys = cfg.MODEL.ERRSEG
    stride = stage_strides(visual)[2]
    for key in ("RESOLUTION", "TEST_RESOLUTION"):
        if keys[key] % (2 * stride):
            raise UserError(f"MODEL.ERRSEG.{key} is {keys[key]}; it must be a multiple of {2 * stride}")
    return Aggregator(
        cost_channels=len(TEMPLATES[cfg.MODEL.CLIP.TEMPLATES]),
        embedding=embedding,
        stage_channels=stage_widths(visual),
        source_channels=keys.SOURCE_CHANNELS,
        channels=keys.CHANNELS,
        layers=[_layer(cfg, keys.DROP_PATH * index / keys.LAYERS) for index in range(keys.LAYERS)],
        decoder_channels=keys.DECODER_CHANNELS,
        decoder_guidance=keys.DECODER_GUIDANCE_CHANNELS,
        class_block=keys.CLASS_BLOCK,
    )


def _layer(cfg: CfgNode, drop_path: float) -> AggregatorLayer:
    keys = cfg.MODEL.ERRSEG
    shared = {"channels": keys.CHANNELS, "guidance_channels": keys.CHANNELS, "heads": keys.HEADS}
    return AggregatorLayer(
        spatial=SpatialAggregation(**shared, drop_path=drop_path),
        classes=ClassAggregation(**shared, drop_path=drop_path),
    )
