"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import SystemCard

CARDS = (
    SystemCard(
        name="Mask2Former",
        paradigm="two-stage",
        title="Masked-attention Mask Transformer for Universal Image Segmentation",
        venue="CVPR 2022",
        paper="https://arxiv.org/abs/2112.01527",
        code="https://github.com/facebookresearch/Mask2Former",
        code_licence="",
        weights_licence="",
        meta_architecture="Mask2Former",
        module="twostage.systems.two_stage.mask2former.model",
        configs=(
            "mask2former_r50",
            "mask2former_r101",
            "mask2former_swint",
            "mask2former_swinb",
            "mask2former_swinl",
            "mask2former_r50_coco",
            "mask2former_swinb_coco",
            "toybox/mask2former",
            "toybox/mask2former_agnostic",
        ),
        signatures={
            "": Signature(
                (
                    "backbone.",
                    "sem_seg_head.predictor.transformer_cross_attention_layers.",
                ),
                absent=(
                    "backbone.clip_model.",
                    "backbone.feature_extractor.",
                    "clip_adapter.",
                    "word_head.",
                    "category_head.",
                    "void_embedding.",
                ),
            ),
        },
        checked="the 6 public cases match, training included",
    ),
)
