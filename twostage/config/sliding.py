"""Sliding-window inference of dense systems."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.config.group import KeyGroup
from twostage.errors import UserError


def _add(cfg: CN) -> None:
    cfg.TEST.SLIDING = CN()
    # Predict from overlapping tiles instead of the whole image.
    cfg.TEST.SLIDING.ENABLED = False
    # Side of a square tile and step between tiles, in pixels.
    cfg.TEST.SLIDING.TILE = 384
    cfg.TEST.SLIDING.STRIDE = 256
    # The image is resized to a square of this side before it is cut (0: cut as it is).
    cfg.TEST.SLIDING.CANVAS = 0
    # Average with a view of the whole image, resized to the tile's size.
    cfg.TEST.SLIDING.WHOLE_IMAGE = False


def _check(cfg: CN) -> None:
    sliding = cfg.TEST.SLIDING
    if sliding.STRIDE > sliding.TILE:
        raise UserError(
            f"TEST.SLIDING.STRIDE {sliding.STRIDE} must not exceed TEST.SLIDING.TILE {sliding.TILE}, "
            "or pixels between the tiles are never seen"
        )
    if sliding.CANVAS < 0:
        raise UserError(
            f"TEST.SLIDING.CANVAS is {sliding.CANVAS}; give a side in pixels, or 0 for the image's own size"
        )


GROUP = KeyGroup(add=_add, positive=("TEST.SLIDING.TILE", "TEST.SLIDING.STRIDE"), check=_check)
