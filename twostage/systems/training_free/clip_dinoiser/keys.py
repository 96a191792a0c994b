"""Keys of CLIP-DINOiser."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.CLIP_DINOISER = CN()
    keys = cfg.MODEL.CLIP_DINOISER
    # Channels in which patches are compared.
    keys.WIDTH = 256
    # Correlations below this do not count.
    keys.GAMMA = 0.2
    # Factor of the cosines before the softmax over names.
    keys.LOGIT_SCALE = 100.0
    # True: patches whose best name has a probability below DELTA, and that the head calls background, are class 0.
    keys.BACKGROUND = False
    keys.DELTA = 0.99
    # Windows of one image that go through CLIP together (memory).
    keys.WINDOWS_PER_BATCH = 16


def _check(cfg: CN) -> None:
    if cfg.MODEL.META_ARCHITECTURE == "ClipDinoiser" and (cfg.TEST.SLIDING.CANVAS or cfg.TEST.SLIDING.WHOLE_IMAGE):
        raise UserError("TEST.SLIDING.CANVAS and TEST.SLIDING.WHOLE_IMAGE are not defined for CLIP-DINOiser")


GROUPS = (
    KeyGroup(
        add=_add,
        positive=(
            "MODEL.CLIP_DINOISER.WIDTH",
            "MODEL.CLIP_DINOISER.LOGIT_SCALE",
            "MODEL.CLIP_DINOISER.WINDOWS_PER_BATCH",
        ),
        fraction=("MODEL.CLIP_DINOISER.GAMMA", "MODEL.CLIP_DINOISER.DELTA"),
        check=_check,
    ),
)
