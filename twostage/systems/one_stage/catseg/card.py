"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import SystemCard
from twostage.systems.one_stage.catseg.keys import GROUPS
from twostage.systems.one_stage.cost_aggregation import keys as cost_aggregation
from twostage.systems.one_stage.cost_aggregation.variants import keys as variants
from twostage.systems.one_stage.cost_aggregation.variants.presence import keys as presence

CARDS = (
    SystemCard(
        name="CAT-Seg",
        paradigm="one-stage",
        title="CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation",
        venue="CVPR 2024",
        paper="https://arxiv.org/abs/2303.11797",
        code="https://github.com/KU-CVLAB/CAT-Seg",
        code_licence="",
        weights_licence="",
        meta_architecture="CATSeg",
        module="twostage.systems.one_stage.catseg.model",
        keys=(*GROUPS, *cost_aggregation.GROUPS, *variants.GROUPS, *presence.GROUPS),
        configs=(
            "catseg_vitb",
            "catseg_vitl",
            "catseg_v1_vitb_r101",
            "catseg_v1_vitl_swinb",
            "toybox/catseg",
        ),
        signatures={
            "v2": Signature(
                (
                    "sem_seg_head.predictor.clip_model.",
                    "sem_seg_head.predictor.transformer.layers.0.swin_block.",
                    "upsample1.",
                    "upsample2.",
                ),
                absent=("backbone.",),
            ),
            "v1": Signature(
                (
                    "sem_seg_head.predictor.clip_model.",
                    "sem_seg_head.predictor.transformer.layers.0.swin_block.",
                    "backbone.",
                ),
                absent=("upsample1.",),
            ),
        },
        checked=(
            "the 11 public cases match, training and v1 included; tensors and trainable lists of all four "
            "variants equal the published ones"
        ),
    ),
)
