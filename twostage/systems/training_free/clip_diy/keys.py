"""Keys of CLIP-DIY; the tower of its objectness is MODEL.FOUNDATION's."""

from __future__ import annotations

from typing import get_args

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.foundation.keys import OWN, SamName
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.CLIP_DIY = CN()
    keys = cfg.MODEL.CLIP_DIY
    # Sides in pixels of the square crops; neighbours lie half a side apart.
    keys.CROPS = [256, 128, 64]
    # Side that crops are resized to for CLIP; 0: that of CLIP's own position table.
    keys.CROP_SIZE = 0
    # True: where a vocabulary begins with "background", FOUND's objectness weighs it against all others.
    keys.OBJECTNESS = True
    # Crops of one image that go through CLIP together (memory).
    keys.CROPS_PER_BATCH = 64


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.CLIP_DIY
    if not keys.CROPS or min(keys.CROPS) < 2:
        raise UserError(f"MODEL.CLIP_DIY.CROPS is {keys.CROPS}; it must hold sides of at least 2 pixels")
    if keys.CROP_SIZE < 0:
        raise UserError(
            f"MODEL.CLIP_DIY.CROP_SIZE is {keys.CROP_SIZE}; it must be a side in pixels, or 0 for CLIP's own"
        )
    if cfg.MODEL.META_ARCHITECTURE != "ClipDiy":
        return
    if keys.OBJECTNESS and cfg.MODEL.FOUNDATION.NAME in (OWN, *get_args(SamName)):
        raise UserError(
            f"MODEL.FOUNDATION.NAME is {cfg.MODEL.FOUNDATION.NAME!r}, but FOUND reads the keys of a DINO; use 'dino_vits8', "
            "or MODEL.CLIP_DIY.OBJECTNESS False"
        )
    if cfg.TEST.SLIDING.ENABLED:
        raise UserError("TEST.SLIDING.ENABLED is not defined for CLIP-DIY, which cuts its own crops")


GROUPS = (
    KeyGroup(
        add=_add,
        positive=("MODEL.CLIP_DIY.CROPS_PER_BATCH",),
        sides=("MODEL.CLIP_DIY.CROPS", "MODEL.CLIP_DIY.CROP_SIZE"),
        check=_check,
    ),
)
