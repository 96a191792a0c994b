"""Keys of ProxyCLIP; the rest are MODEL.TRAINING_FREE's and MODEL.FOUNDATION's."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup
from twostage.systems.training_free.dense_clip.keys import GROUPS as DENSE_CLIP


def _add(cfg: CN) -> None:
    cfg.MODEL.PROXYCLIP = CN()
    # Patches attend to those whose cosine is at least BETA times the image's mean, with the factor GAMMA in the softmax.
    cfg.MODEL.PROXYCLIP.BETA = 1.2
    cfg.MODEL.PROXYCLIP.GAMMA = 3.0
    # Windows are padded to a multiple of this many pixels: 56 for patches of 8 and 14.
    cfg.MODEL.PROXYCLIP.WINDOW_MULTIPLE = 56


def _check(cfg: CN) -> None:
    if cfg.MODEL.META_ARCHITECTURE != "ProxyClip":
        return
    keys = cfg.MODEL.TRAINING_FREE
    if keys.METHOD != "maskclip" or keys.KEY_SMOOTHING:
        raise UserError(
            f"MODEL.TRAINING_FREE.METHOD is {keys.METHOD!r} and KEY_SMOOTHING {keys.KEY_SMOOTHING}, but ProxyCLIP's last "
            "block has an attention of its own; leave them at 'maskclip' and 0"
        )
    if cfg.TEST.SLIDING.CANVAS or cfg.TEST.SLIDING.WHOLE_IMAGE:
        raise UserError("TEST.SLIDING.CANVAS and TEST.SLIDING.WHOLE_IMAGE are not defined for training-free systems")


GROUPS = (
    *DENSE_CLIP,
    KeyGroup(add=_add, positive=("MODEL.PROXYCLIP.GAMMA", "MODEL.PROXYCLIP.WINDOW_MULTIPLE"), check=_check),
)
