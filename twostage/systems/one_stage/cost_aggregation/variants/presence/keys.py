"""Keys of class-presence heads, which filter the vocabulary of cost-aggregation systems (CAT-Seg, SED)."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.PRESENCE = CN()
    keys = cfg.MODEL.PRESENCE
    # What tells which classes an image shows: "none", "cross_attention" of class texts to pixels, or "ml_decoder".
    keys.HEAD = "none"
    # "bce": binary cross entropy; "asymmetric": easy negatives count little (Ridnik et al., ICCV 2021).
    keys.LOSS = "bce"
    keys.WEIGHT = 1.0
    keys.CHANNELS = 256
    keys.HEADS = 8  # of attention
    # Classes that share a query of "ml_decoder"; more make it cheaper in large vocabularies.
    keys.GROUP_SIZE = 1
    # In evaluation, classes less probable than this are left out before aggregation (0: none) ... The asymmetric loss leaves
    # absent classes at 0.05 and above, so it wants more: about 0.3.
    keys.THRESHOLD = 0.1
    # ... but so many of the most probable ones stay.
    keys.LEAST = 8


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.PRESENCE
    for key in ("HEADS", "GROUP_SIZE"):
        if keys.CHANNELS % keys[key]:
            raise UserError(
                f"MODEL.PRESENCE.CHANNELS {keys.CHANNELS} must be a multiple of MODEL.PRESENCE.{key} {keys[key]}"
            )
    if keys.GROUP_SIZE > 1 and keys.HEAD == "cross_attention":
        raise UserError(
            f"MODEL.PRESENCE.GROUP_SIZE {keys.GROUP_SIZE} needs MODEL.PRESENCE.HEAD 'ml_decoder'; "
            "'cross_attention' has a query per class"
        )


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "MODEL.PRESENCE.HEAD": ("none", "cross_attention", "ml_decoder"),
            "MODEL.PRESENCE.LOSS": ("bce", "asymmetric"),
        },
        positive=tuple(f"MODEL.PRESENCE.{key}" for key in ("WEIGHT", "CHANNELS", "HEADS", "GROUP_SIZE", "LEAST")),
        fraction=("MODEL.PRESENCE.THRESHOLD",),
        check=_check,
    ),
)
