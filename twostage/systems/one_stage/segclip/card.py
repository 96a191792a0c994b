"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, SystemCard
from twostage.systems.one_stage.segclip.keys import GROUPS

CARDS = (
    SystemCard(
        name="SegCLIP",
        paradigm="one-stage",
        title="SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic Segmentation",
        venue="ICML 2023",
        paper="https://arxiv.org/abs/2211.14813",
        code="https://github.com/ArrowLuo/SegCLIP",
        code_licence="",
        weights_licence="",
        meta_architecture="SegCLIP",
        module="twostage.systems.one_stage.segclip.model",
        keys=GROUPS,
        configs=(
            "segclip_vitb",
            "toybox/segclip",
        ),
        signatures={
            "": Signature(
                (
                    "vis_mae_decoder.",
                    "clip.visual.transformer.semantic_layer2.",
                )
            ),
        },
        checked="the 4 public cases match, training included",
        checkpoints=(
            OfficialCheckpoint(
                name="segclip.bin",
                source="https://github.com/ArrowLuo/SegCLIP/releases/download/checkpoint_v0/segclip.bin",
                config="segclip_vitb",
                train="CC3M and COCO captions",
                note="holds CLIP and the reconstruction that only training needs",
            ),
        ),
    ),
)
