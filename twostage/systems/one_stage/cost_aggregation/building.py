"""The parts that cost-aggregation systems share, as `MODEL.COST_AGGREGATION` describes them."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from torch import nn

from twostage.clip.templates import TEMPLATES
from twostage.systems.one_stage.cost_aggregation.class_attention import ClassAggregation
from twostage.systems.one_stage.cost_aggregation.variants.experts import ExpertFeedForward
from twostage.systems.one_stage.cost_aggregation.variants.image_correlation import ImageCorrelation
from twostage.systems.one_stage.cost_aggregation.variants.nearest_attention import NearestClassAggregation


def build_class_aggregation(cfg: CfgNode, *, channels: int, slots: int = 0, **settings: int) -> ClassAggregation:
    """The class aggregation of `MODEL.COST_AGGREGATION`; `settings` are `ClassAggregation`'s.

    Args:
        slots: see `ClassAggregation`; without meaning where a class sees only the nearest ones.
    """
    keys = cfg.MODEL.COST_AGGREGATION
    common: dict[str, Any] = {**settings, "channels": channels, "feed_forward": _feed_forward(keys, channels)}
    if keys.CLASS_ATTENTION == "nearest":
        return NearestClassAggregation(**common)
    return ClassAggregation(**common, slots=slots)


def _feed_forward(keys: CfgNode, channels: int) -> nn.Module | None:
    if keys.FEED_FORWARD == "plain":
        return None
    return ExpertFeedForward(
        channels=channels,
        hidden=4 * channels,
        experts=keys.EXPERTS,
        active=keys.ACTIVE_EXPERTS,
        shared=keys.SHARED_EXPERTS if keys.FEED_FORWARD == "shared_experts" else 0,
    )


def nearest_count(cfg: CfgNode) -> int:
    """How many classes each class sees; 0 where it sees all."""
    keys = cfg.MODEL.COST_AGGREGATION
    return keys.NEAREST_CLASSES if keys.CLASS_ATTENTION == "nearest" else 0


def cost_channels(cfg: CfgNode) -> int:
    """Channels of the cost map: one per prompt template, twice where those of correlated embeddings are appended."""
    templates = len(TEMPLATES[cfg.MODEL.CLIP.TEMPLATES])
    return 2 * templates if cfg.MODEL.COST_AGGREGATION.IMAGE_CORRELATION == "append" else templates


def build_correlation(cfg: CfgNode) -> ImageCorrelation | None:
    """Image-to-image correlation of `MODEL.COST_AGGREGATION`, None where it is off."""
    keys = cfg.MODEL.COST_AGGREGATION
    if keys.IMAGE_CORRELATION == "none":
        return None
    return ImageCorrelation(
        append=keys.IMAGE_CORRELATION == "append",
        guided=keys.CORRELATION_FEATURES == "guide",
        shift=keys.CORRELATION_SHIFT,
        scale=keys.CORRELATION_SCALE,
    )
