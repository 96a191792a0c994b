"""Keys of Mask2Former, as a generator of masks and as a system."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.config.group import KeyGroup
from twostage.errors import UserError


def _add(cfg: CN) -> None:
    cfg.MODEL.MASK2FORMER = CN()
    cfg.MODEL.MASK2FORMER.NUM_QUERIES = 100
    # Channels of queries and levels, and of the masks' inner products.
    cfg.MODEL.MASK2FORMER.WIDTH = 256
    cfg.MODEL.MASK2FORMER.MASK_WIDTH = 256
    cfg.MODEL.MASK2FORMER.HEADS = 8
    # Pixel decoder: layers, width of the feed-forward layers, points per level and head.
    cfg.MODEL.MASK2FORMER.ENCODER_LAYERS = 6
    cfg.MODEL.MASK2FORMER.ENCODER_HIDDEN = 1024
    cfg.MODEL.MASK2FORMER.POINTS = 4
    # Transformer decoder: layers (the published DEC_LAYERS less one) and width of the feed-forward layers.
    cfg.MODEL.MASK2FORMER.DECODER_LAYERS = 9
    cfg.MODEL.MASK2FORMER.DECODER_HIDDEN = 2048
    # What tells a mask's class. closed: a linear layer over MODEL.MASK2FORMER.NUM_CLASSES classes and void; agnostic:
    # the same over "object" and void, whatever the training set's classes; text: cosine with CLIP's text embeddings.
    cfg.MODEL.MASK2FORMER.CLASSIFIER = "closed"
    cfg.MODEL.MASK2FORMER.NUM_CLASSES = 150
    # Hidden channels of the text classifier.
    cfg.MODEL.MASK2FORMER.TEXT_HIDDEN = 1024
    # True: class scores are summed at the image's size, then resized (semantic models); False: masks are resized
    # first (models that also give panoptic and instance output).
    cfg.MODEL.MASK2FORMER.RESIZE_SCORES = True
    # Images are zero-padded, after normalisation, to a multiple of this.
    cfg.MODEL.MASK2FORMER.SIZE_DIVISIBILITY = 32


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.MASK2FORMER
    for divisor, name in ((keys.HEADS, "MODEL.MASK2FORMER.HEADS"), (32, "the 32 groups of its norms"), (4, "4")):
        if keys.WIDTH % divisor:
            raise UserError(f"MODEL.MASK2FORMER.WIDTH is {keys.WIDTH}; it must be a multiple of {name} ({divisor})")


GROUP = KeyGroup(
    add=_add,
    choices={"MODEL.MASK2FORMER.CLASSIFIER": ("closed", "agnostic", "text")},
    positive=tuple(
        f"MODEL.MASK2FORMER.{name}"
        for name in (
            "NUM_QUERIES",
            "WIDTH",
            "MASK_WIDTH",
            "HEADS",
            "ENCODER_HIDDEN",
            "POINTS",
            "DECODER_LAYERS",
            "DECODER_HIDDEN",
            "NUM_CLASSES",
            "TEXT_HIDDEN",
            "SIZE_DIVISIBILITY",
        )
    ),
    check=_check,
)
