"""The parts of `MODEL.COST_AGGREGATION`, `MODEL.VIT_GUIDE` and `MODEL.PRESENCE`, one function for each place in a system.

A variant's module is imported where the config names it, so that the published systems neither import nor know it.
"""

from __future__ import annotations

from functools import partial

from detectron2.config import CfgNode
from torch import nn

from twostage.clip.templates import TEMPLATES
from twostage.systems.one_stage.cost_aggregation.class_attention import ClassAggregation, LinearClassAggregation
from twostage.systems.one_stage.cost_aggregation.parts import (
    Correlation,
    DenseBackbone,
    Neighbours,
    PassLosses,
    PresenceFilter,
    SpatialLayer,
)


def build_class_aggregation(
    cfg: CfgNode, losses: PassLosses | None, *, channels: int, slots: int = 0, **settings: int
) -> ClassAggregation:
    """Exchange among classes, linear or among the nearest ones; `settings` are `ClassAggregation`'s.

    Args:
        losses: what `build_pass_losses` made.
        slots: see `LinearClassAggregation`; without meaning where a class sees only the nearest ones.
    """
    feed_forward = _feed_forward(cfg, losses, channels)
    if cfg.MODEL.COST_AGGREGATION.CLASS_ATTENTION == "nearest":
        from twostage.systems.one_stage.cost_aggregation.softmax_attention import SoftmaxClassAggregation

        return SoftmaxClassAggregation(channels=channels, feed_forward=feed_forward, **settings)
    return LinearClassAggregation(channels=channels, feed_forward=feed_forward, slots=slots, **settings)


def build_neighbours(cfg: CfgNode) -> Neighbours | None:
    """Which classes each class reads; None where it reads all."""
    keys = cfg.MODEL.COST_AGGREGATION
    if keys.CLASS_ATTENTION == "linear":
        return None
    from twostage.systems.one_stage.cost_aggregation.variants.nearest_attention import nearest_classes

    return partial(nearest_classes, count=keys.NEAREST_CLASSES)


def build_pass_losses(cfg: CfgNode) -> PassLosses | None:
    """What mixtures of experts report their balance to; None where the feed-forward networks are plain."""
    if cfg.MODEL.COST_AGGREGATION.FEED_FORWARD == "plain":
        return None
    from twostage.systems.one_stage.cost_aggregation.variants.experts import LoadBalance

    return LoadBalance(weight=cfg.MODEL.COST_AGGREGATION.BALANCE_WEIGHT)


def _feed_forward(cfg: CfgNode, losses: PassLosses | None, channels: int) -> nn.Module | None:
    if losses is None:
        return None
    from twostage.systems.one_stage.cost_aggregation.variants.experts import ExpertFeedForward, LoadBalance

    assert isinstance(losses, LoadBalance), "what `build_pass_losses` made"
    keys = cfg.MODEL.COST_AGGREGATION
    return ExpertFeedForward(
        channels=channels,
        hidden=4 * channels,
        experts=keys.EXPERTS,
        active=keys.ACTIVE_EXPERTS,
        shared=keys.SHARED_EXPERTS if keys.FEED_FORWARD == "shared_experts" else 0,
        balance=losses,
    )


def build_spatial(cfg: CfgNode, *, channels: int, groups: int, guidance_channels: int = 0) -> SpatialLayer | None:
    """Aggregation over pixels in place of the system's own; None for the system's own."""
    if cfg.MODEL.COST_AGGREGATION.SPATIAL == "own":
        return None
    from twostage.systems.one_stage.cost_aggregation.variants.deformable import DeformableAggregation

    return DeformableAggregation(channels=channels, groups=groups, guidance_channels=guidance_channels)


def build_backbone_guide(cfg: CfgNode, *, cells: int) -> DenseBackbone | None:
    """A frozen ViT that guides the decoder, on a grid of `cells` x `cells` patches; None for the system's own guidance."""
    if not cfg.MODEL.VIT_GUIDE.NAME:
        return None
    from twostage.systems.one_stage.cost_aggregation.variants.frozen_vit import build_frozen_vit

    return build_frozen_vit(cfg, cells=cells)


def cost_channels(cfg: CfgNode) -> int:
    """Channels of the cost map: one per prompt template, twice where those of correlated embeddings are appended."""
    templates = len(TEMPLATES[cfg.MODEL.CLIP.TEMPLATES])
    return 2 * templates if cfg.MODEL.COST_AGGREGATION.IMAGE_CORRELATION == "append" else templates


def build_correlation(cfg: CfgNode) -> Correlation | None:
    """Image-to-image correlation before the cost map; None for none."""
    keys = cfg.MODEL.COST_AGGREGATION
    if keys.IMAGE_CORRELATION == "none":
        return None
    from twostage.systems.one_stage.cost_aggregation.variants.image_correlation import ImageCorrelation

    return ImageCorrelation(
        append=keys.IMAGE_CORRELATION == "append",
        guided=keys.CORRELATION_FEATURES == "guide",
        shift=keys.CORRELATION_SHIFT,
        scale=keys.CORRELATION_SCALE,
    )


def build_presence(cfg: CfgNode, embedding: int) -> PresenceFilter | None:
    """A presence head for embeddings of size `embedding`, with its loss and its filter; None for none."""
    if cfg.MODEL.PRESENCE.HEAD == "none":
        return None
    from twostage.systems.one_stage.cost_aggregation.variants.presence.presence import Presence

    return Presence.from_config(cfg, embedding)
