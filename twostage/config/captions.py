"""Training from image-caption pairs."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.config.group import KeyGroup
from twostage.errors import UserError


def _add(cfg: CN) -> None:
    cfg.INPUT.CAPTIONS = CN()
    # Side in pixels of the square that a random part of a picture is resized to, and the share of its area that this
    # part covers (least, most).
    cfg.INPUT.CAPTIONS.SIZE = 224
    cfg.INPUT.CAPTIONS.AREA = (0.5, 1.0)
    # Superpixels of the whole picture (Felzenszwalb): scale, blur before, and least size in pixels.
    cfg.INPUT.CAPTIONS.SUPERPIXEL_SCALE = 224.0
    cfg.INPUT.CAPTIONS.SUPERPIXEL_SIGMA = 0.9
    cfg.INPUT.CAPTIONS.SUPERPIXEL_MIN_SIZE = 224


def _check(cfg: CN) -> None:
    area = tuple(cfg.INPUT.CAPTIONS.AREA)
    if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
        raise UserError(f"INPUT.CAPTIONS.AREA is {area}; give (least, most), both above 0 and at most 1")


GROUP = KeyGroup(
    add=_add,
    positive=("INPUT.CAPTIONS.SIZE", "INPUT.CAPTIONS.SUPERPIXEL_SCALE", "INPUT.CAPTIONS.SUPERPIXEL_MIN_SIZE"),
    check=_check,
)
