"""Keys of ProxyCLIP; the rest are MODEL.TRAINING_FREE's and MODEL.FOUNDATION's."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.keys import KeyGroup
from twostage.systems.training_free.dense_clip.keys import GROUPS as DENSE_CLIP
from twostage.systems.training_free.dense_clip.keys import require_own_attention


def _add(cfg: CN) -> None:
    cfg.MODEL.PROXYCLIP = CN()
    # Patches attend to those whose cosine is at least BETA times the image's mean, with the factor GAMMA in the softmax.
    cfg.MODEL.PROXYCLIP.BETA = 1.2
    cfg.MODEL.PROXYCLIP.GAMMA = 3.0
    # Windows are padded to a multiple of this many pixels: 56 for patches of 8 and 14.
    cfg.MODEL.PROXYCLIP.WINDOW_MULTIPLE = 56


def _check(cfg: CN) -> None:
    if cfg.MODEL.META_ARCHITECTURE == "ProxyClip":
        require_own_attention(cfg, "ProxyCLIP")


GROUPS = (
    *DENSE_CLIP,
    KeyGroup(
        add=_add,
        positive=("MODEL.PROXYCLIP.GAMMA", "MODEL.PROXYCLIP.WINDOW_MULTIPLE"),
        sides=("MODEL.PROXYCLIP.WINDOW_MULTIPLE",),
        check=_check,
    ),
)
