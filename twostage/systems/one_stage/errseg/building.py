"""ERR-Seg's aggregator as the config describes it."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode

from twostage.clip.templates import TEMPLATES
from twostage.errors import UserError
from twostage.systems.one_stage.cost_aggregation.layer import AggregatorLayer
from twostage.systems.one_stage.errseg.aggregator import Aggregator
from twostage.systems.one_stage.errseg.layers import ClassAggregation, SpatialAggregation


def check_resolutions(cfg: CfgNode, stride: int) -> None:
    """UserError where CLIP's stages, of which the coarsest has `stride`, would not lie on grids that double."""
    for key in ("RESOLUTION", "TEST_RESOLUTION"):
        if cfg.MODEL.ERRSEG[key] % stride:
            raise UserError(f"MODEL.ERRSEG.{key} is {cfg.MODEL.ERRSEG[key]}; it must be a multiple of {stride}")


def build_aggregator(cfg: CfgNode, stage_channels: Sequence[int], embedding: int) -> Aggregator:
    """The aggregator of `MODEL.ERRSEG`.

    Args:
        stage_channels: of CLIP's stages, res2 to res5.
        embedding: size of CLIP's embeddings.
    """
    keys = cfg.MODEL.ERRSEG
    return Aggregator(
        cost_channels=len(TEMPLATES[cfg.MODEL.CLIP.TEMPLATES]),
        embedding=embedding,
        stage_channels=stage_channels,
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
