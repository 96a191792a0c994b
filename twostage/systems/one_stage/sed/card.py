"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import SystemCard
from twostage.systems.one_stage.cost_aggregation import keys as cost_aggregation
from twostage.systems.one_stage.cost_aggregation.variants import keys as variants
from twostage.systems.one_stage.cost_aggregation.variants.presence import keys as presence
from twostage.systems.one_stage.sed.keys import GROUPS

CARDS = (
    SystemCard(
        name="SED",
        paradigm="one-stage",
        title="SED: A Simple Encoder-Decoder for Open-Vocabulary Semantic Segmentation",
        venue="CVPR 2024",
        paper="https://arxiv.org/abs/2311.15537",
        code="https://github.com/xb534/SED",
        code_licence="",
        weights_licence="",
        meta_architecture="SED",
        module="twostage.systems.one_stage.sed.model",
        keys=(*GROUPS, *cost_aggregation.GROUPS, *variants.GROUPS, *presence.GROUPS),
        configs=(
            "sed_convnextb",
            "sed_convnextl",
            "toybox/sed",
        ),
        signatures={
            "": Signature(
                (
                    "sem_seg_head.predictor.clip_model.visual.trunk.",
                    "sem_seg_head.predictor.transformer.decoder3.",
                    "sem_seg_head.predictor.transformer.head0.",
                )
            ),
        },
        checked="the 7 public cases match, early rejection on and off, training included",
    ),
)
