"""Presence heads as `MODEL.PRESENCE` describes them."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import nn

from twostage.systems.one_stage.cost_aggregation.variants.presence.cross_attention import CrossAttentionHead
from twostage.systems.one_stage.cost_aggregation.variants.presence.losses import asymmetric_loss, binary_loss
from twostage.systems.one_stage.cost_aggregation.variants.presence.ml_decoder import MLDecoderHead
from twostage.systems.one_stage.cost_aggregation.variants.presence.presence import Presence


def build_presence(cfg: CfgNode, embedding: int) -> Presence | None:
    """The head of `MODEL.PRESENCE` for embeddings of size `embedding`, None where it is off."""
    keys = cfg.MODEL.PRESENCE
    if keys.HEAD == "none":
        return None
    shared = {"embedding": embedding, "channels": keys.CHANNELS, "heads": keys.HEADS}
    if keys.HEAD == "ml_decoder":
        head: nn.Module = MLDecoderHead(**shared, group_size=keys.GROUP_SIZE)
    else:
        head = CrossAttentionHead(**shared)
    return Presence(
        head=head,
        criterion=asymmetric_loss if keys.LOSS == "asymmetric" else binary_loss,
        weight=keys.WEIGHT,
        threshold=keys.THRESHOLD,
        least=keys.LEAST,
        group_size=keys.GROUP_SIZE,
    )
