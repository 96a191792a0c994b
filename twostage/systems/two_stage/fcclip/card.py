"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import SystemCard
from twostage.systems.two_stage.fcclip.keys import GROUPS

CARDS = (
    SystemCard(
        name="FC-CLIP",
        paradigm="two-stage",
        title="Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP",
        venue="NeurIPS 2023",
        paper="https://arxiv.org/abs/2308.02487",
        code="https://github.com/bytedance/fc-clip",
        code_licence="",
        weights_licence="",
        meta_architecture="FCCLIP",
        module="twostage.systems.two_stage.fcclip.model",
        keys=GROUPS,
        configs=(
            "fcclip_convnextl",
            "fcclip_r50",
            "toybox/fcclip",
        ),
        signatures={
            "": Signature(
                (
                    "backbone.clip_model.",
                    "void_embedding.",
                    "sem_seg_head.predictor.class_embed.",
                ),
                absent=(
                    "cdt.",
                    "backbone_t.",
                    "mask_adapter.",
                ),
            ),
        },
        checked=(
            "both public cases match (full size on two threads); RN50 equals the authors' code at full size, "
            "RN101 and RN50x4 at small size"
        ),
    ),
)
