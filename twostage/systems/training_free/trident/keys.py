"""Keys of Trident; the rest are MODEL.TRAINING_FREE's, MODEL.FOUNDATION's and MODEL.SAM's."""

from __future__ import annotations

from typing import get_args

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.foundation.keys import SamName
from twostage.keys import KeyGroup
from twostage.systems.training_free.dense_clip.keys import require_own_attention


def _add(cfg: CN) -> None:
    cfg.MODEL.TRIDENT = CN()
    keys = cfg.MODEL.TRIDENT
    # As ProxyCLIP's; the mean is that of all the picture's windows.
    keys.BETA = 1.2
    keys.GAMMA = 3.0
    # False: spliced features are named without SAM having mixed them.
    keys.AGGREGATE = True
    # SAM's tokens mix where their values' cosine exceeds this times the row's mean.
    keys.COSINE_FACTOR = 1.2
    # Whether such a threshold may be negative; if not, it is 0.6.
    keys.NEGATIVE_THRESHOLDS = True
    # SAM sees the left and the right half of a picture on their own (Cityscapes).
    keys.IN_HALVES = False
    # Labels are sharpened by SAM, asked about each region: regions of pixels, and classes with pixels, that are at least this
    # likely; of at least so many pixels at half the picture's size; the factor of probabilities in mask prompts; and the
    # predicted IoU that a mask must exceed.
    keys.REFINE = True
    keys.LEAST_PROBABILITY = 0.2
    keys.LEAST_AREA = 225
    keys.MASK_FACTOR = 0.005
    keys.LEAST_IOU = 0.8


def _check(cfg: CN) -> None:
    if cfg.MODEL.META_ARCHITECTURE != "Trident":
        return
    require_own_attention(cfg, "Trident")
    keys = cfg.MODEL.TRIDENT
    if keys.REFINE and not keys.AGGREGATE:
        raise UserError(
            "MODEL.TRIDENT.REFINE is True, but MODEL.TRIDENT.AGGREGATE is False, so there is no SAM to ask; set REFINE False"
        )
    if cfg.MODEL.FOUNDATION.NAME in get_args(SamName):
        raise UserError(
            f"MODEL.FOUNDATION.NAME is {cfg.MODEL.FOUNDATION.NAME!r}, but Trident has SAM as MODEL.SAM; use 'dino_vitb16'"
        )


GROUPS = (
    KeyGroup(
        add=_add,
        positive=("MODEL.TRIDENT.GAMMA", "MODEL.TRIDENT.LEAST_AREA", "MODEL.TRIDENT.MASK_FACTOR"),
        fraction=("MODEL.TRIDENT.LEAST_PROBABILITY",),
        check=_check,
    ),
)
