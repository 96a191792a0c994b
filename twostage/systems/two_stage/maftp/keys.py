"""Keys of MAFT+, besides those of FC-CLIP that it shares (`MODEL.FCCLIP`, `MODEL.MASK2FORMER`)."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.MAFTP = CN()
    # Where the transfer's layer norm stands: "semantic" behind the sum with the text, "panoptic" before it. A published
    # file was trained with one of the two.
    cfg.MODEL.MAFTP.TRANSFER = "semantic"
    # Heads of the transfer's attention.
    cfg.MODEL.MAFTP.HEADS = 8
    # How the transfer reads CLIP's last stage: "scrambled" as published (memory order, channels and places mixed), for
    # published weights; "aligned" cell by cell.
    cfg.MODEL.MAFTP.CELLS = "scrambled"
    # Weights of the mask-aware loss and of the one that holds CLIP to what it was.
    cfg.MODEL.MAFTP.MASK_AWARE_WEIGHT = 1.0
    cfg.MODEL.MAFTP.COMPENSATION_WEIGHT = 0.1


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "MODEL.MAFTP.TRANSFER": ("semantic", "panoptic"),
            "MODEL.MAFTP.CELLS": ("scrambled", "aligned"),
        },
        positive=("MODEL.MAFTP.HEADS",),
    ),
)
