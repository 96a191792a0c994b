"""Keys of the MaskFormer mask generator."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.config.group import KeyGroup
from twostage.errors import UserError


def _add(cfg: CN) -> None:
    cfg.MODEL.MASKFORMER = CN()
    cfg.MODEL.MASKFORMER.NUM_QUERIES = 100
    # Channels of queries and feature pyramid, and of the per-pixel embeddings that masks are made from.
    cfg.MODEL.MASKFORMER.WIDTH = 256
    cfg.MODEL.MASKFORMER.MASK_CHANNELS = 256
    # Transformer decoder: layers, attention heads, width inside the feed-forward layers.
    cfg.MODEL.MASKFORMER.LAYERS = 6
    cfg.MODEL.MASKFORMER.HEADS = 8
    cfg.MODEL.MASKFORMER.FEED_FORWARD = 2048
    cfg.MODEL.MASKFORMER.DROPOUT = 0.1


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.MASKFORMER
    for divisor, meaning in ((keys.HEADS, "MODEL.MASKFORMER.HEADS"), (32, "the groups of its norms")):
        if keys.WIDTH % divisor:
            raise UserError(f"MODEL.MASKFORMER.WIDTH {keys.WIDTH} must be a multiple of {meaning} ({divisor})")


GROUP = KeyGroup(
    add=_add,
    positive=(
        "MODEL.MASKFORMER.NUM_QUERIES",
        "MODEL.MASKFORMER.WIDTH",
        "MODEL.MASKFORMER.MASK_CHANNELS",
        "MODEL.MASKFORMER.LAYERS",
        "MODEL.MASKFORMER.HEADS",
        "MODEL.MASKFORMER.FEED_FORWARD",
    ),
    fraction=("MODEL.MASKFORMER.DROPOUT",),
    check=_check,
)
