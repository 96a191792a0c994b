"""Losses of mask-classification systems."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.config.group import KeyGroup
from twostage.errors import UserError


def _add(cfg: CN) -> None:
    # Set-prediction losses of mask-classification systems (Mask2Former), also the matching costs.
    cfg.MODEL.MASK_LOSS = CN()
    cfg.MODEL.MASK_LOSS.CLASS_WEIGHT = 2.0
    cfg.MODEL.MASK_LOSS.MASK_WEIGHT = 5.0
    cfg.MODEL.MASK_LOSS.DICE_WEIGHT = 5.0
    # Weight of the void class in the classification loss.
    cfg.MODEL.MASK_LOSS.NO_OBJECT_WEIGHT = 0.1
    # Pixel-wise mask loss and cost: binary cross-entropy, or the focal form of MaskFormer.
    cfg.MODEL.MASK_LOSS.FOCAL = False
    # Points per mask (0: every pixel, as in MaskFormer), candidates per point and share of points taken where the mask is
    # most uncertain (PointRend).
    cfg.MODEL.MASK_LOSS.NUM_POINTS = 12544
    cfg.MODEL.MASK_LOSS.OVERSAMPLE_RATIO = 3.0
    cfg.MODEL.MASK_LOSS.IMPORTANCE_SAMPLE_RATIO = 0.75


def _check(cfg: CN) -> None:
    if cfg.MODEL.MASK_LOSS.NUM_POINTS < 0:
        raise UserError(
            f"MODEL.MASK_LOSS.NUM_POINTS is {cfg.MODEL.MASK_LOSS.NUM_POINTS}; it must be 0 (all pixels) or more"
        )


GROUP = KeyGroup(
    add=_add,
    check=_check,
    fraction=("MODEL.MASK_LOSS.IMPORTANCE_SAMPLE_RATIO",),
)
