"""Frozen foundation models that lend training-free systems their affinities."""

from __future__ import annotations

from typing import Literal, get_args

from detectron2.config import CfgNode as CN

from twostage.keys import KeyGroup

# DINO (Caron et al., ICCV 2021) and DINOv2 (Oquab et al., 2023; with registers: Darcet et al., ICLR 2024): the authors' names;
# and a tiny one of our own, which ships with the package (foundation/toybox.py).
FoundationName = Literal[
    "dino_vits8",
    "dino_vits16",
    "dino_vitb8",
    "dino_vitb16",
    "dinov2_vitb14",
    "dinov2_vitb14_reg",
    "dinov2_vitl14_reg",
    "toybox_vits8",
]
# SAM (Kirillov et al., ICCV 2023), which transformers runs (the extra "sam").
SamName = Literal["sam_vitb", "sam_vitl", "sam_vith"]
# Instead of a second model: CLIP's own patches, as they enter its last block.
OWN = "clip"


def _add(cfg: CN) -> None:
    cfg.MODEL.FOUNDATION = CN()
    # Which model, see FoundationName and SamName; "clip": none, CLIP's own patches take its place.
    cfg.MODEL.FOUNDATION.NAME = "dino_vitb8"
    # A file (or address, see MODEL.CLIP.PRETRAINED) in the authors', timm's or transformers' layout, "timm" (downloaded from
    # timm's hub; of SAM the authors' file), "toybox" (shipped), or "" for random weights (for a MODEL.WEIGHTS file that
    # holds it as well, and for tests).
    cfg.MODEL.FOUNDATION.PRETRAINED = "timm"
    # SAM beside it (Trident, and masks from SAM's grid of points), see SamName; a file (or address) in the authors' or
    # transformers' layout, "official" (the authors' file, downloaded), or "" for random weights.
    cfg.MODEL.SAM = CN()
    cfg.MODEL.SAM.NAME = "sam_vitb"
    cfg.MODEL.SAM.PRETRAINED = "official"


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "MODEL.FOUNDATION.NAME": (*get_args(FoundationName), *get_args(SamName), OWN),
            "MODEL.SAM.NAME": get_args(SamName),
        },
        paths=("MODEL.FOUNDATION.PRETRAINED", "MODEL.SAM.PRETRAINED"),
    ),
)
