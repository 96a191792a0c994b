"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import SystemCard
from twostage.systems.two_stage.san.keys import GROUPS

CARDS = (
    SystemCard(
        name="SAN",
        paradigm="two-stage",
        title="Side Adapter Network for Open-Vocabulary Semantic Segmentation",
        venue="CVPR 2023",
        paper="https://arxiv.org/abs/2302.12242",
        code="https://github.com/MendelXu/SAN",
        code_licence="",
        weights_licence="",
        meta_architecture="SAN",
        module="twostage.systems.two_stage.san.model",
        keys=GROUPS,
        configs=(
            "san_vitb",
            "san_vitl",
            "toybox/san",
        ),
        signatures={
            "": Signature(
                (
                    "side_adapter_network.",
                    "clip_visual_extractor.",
                    "clip_rec_head.",
                    "ov_classifier.",
                )
            ),
        },
        checked="the 4 public cases match, training included; official checkpoints load by content",
    ),
)
