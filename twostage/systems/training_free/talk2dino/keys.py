"""Keys of Talk2DINO; the image tower is MODEL.FOUNDATION's."""

from __future__ import annotations

from typing import get_args

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.foundation.keys import OWN, SamName
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.TALK2DINO = CN()
    keys = cfg.MODEL.TALK2DINO
    # Side in pixels that windows are resized to.
    keys.WINDOW_SIDE = 448
    # Class 0 is the background, with this score everywhere; 0: there is none.
    keys.BACKGROUND_SCORE = 0.0
    # Share of the heads' attention in the scores (background cleaning); 0: off.
    keys.CLEANING = 0.0
    # Pixel-adaptive mask refinement of each window: rounds (0: off) and distances in pixels.
    keys.PAMR_STEPS = 0
    keys.PAMR_DILATIONS = [1, 2, 4, 8, 12, 24]
    # Windows of one image that go through the image tower together (memory).
    keys.WINDOWS_PER_BATCH = 16


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.TALK2DINO
    if keys.PAMR_STEPS < 0 or not keys.PAMR_DILATIONS or min(keys.PAMR_DILATIONS) < 1:
        raise UserError(
            f"MODEL.TALK2DINO.PAMR_STEPS {keys.PAMR_STEPS} must not be negative and PAMR_DILATIONS {keys.PAMR_DILATIONS} "
            "must hold distances of at least 1 pixel"
        )
    if cfg.MODEL.META_ARCHITECTURE != "Talk2Dino":
        return
    if cfg.MODEL.FOUNDATION.NAME in (OWN, *get_args(SamName)):
        raise UserError(
            f"MODEL.FOUNDATION.NAME is {cfg.MODEL.FOUNDATION.NAME!r}, but Talk2DINO names the patches of DINOv2; use "
            "'dinov2_vitb14_reg'"
        )
    if cfg.TEST.SLIDING.CANVAS or cfg.TEST.SLIDING.WHOLE_IMAGE:
        raise UserError("TEST.SLIDING.CANVAS and TEST.SLIDING.WHOLE_IMAGE are not defined for Talk2DINO")


GROUPS = (
    KeyGroup(
        add=_add,
        positive=("MODEL.TALK2DINO.WINDOW_SIDE", "MODEL.TALK2DINO.WINDOWS_PER_BATCH"),
        sides=("MODEL.TALK2DINO.WINDOW_SIDE",),
        fraction=("MODEL.TALK2DINO.BACKGROUND_SCORE", "MODEL.TALK2DINO.CLEANING"),
        check=_check,
    ),
)
