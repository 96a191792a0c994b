"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import SystemCard
from twostage.systems.two_stage.ovseg.keys import GROUPS

CARDS = (
    SystemCard(
        name="OVSeg",
        paradigm="two-stage",
        title="Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP",
        venue="CVPR 2023",
        paper="https://arxiv.org/abs/2210.04150",
        code="https://github.com/facebookresearch/ov-seg",
        code_licence="",
        weights_licence="",
        meta_architecture="OVSeg",
        module="twostage.systems.two_stage.ovseg.model",
        keys=GROUPS,
        configs=(
            "ovseg_swinb_vitl",
            "ovseg_r101c_vitb",
            "ovseg_demo",
            "toybox/ovseg",
        ),
        signatures={
            "": Signature(
                (
                    "clip_adapter.",
                    "sem_seg_head.predictor.query_embed.",
                    "backbone.",
                ),
                absent=(
                    "LFM.",
                    "clip_adapter.prompt_learner.",
                ),
            ),
        },
        checked="the 10 public cases match, training included (`base-full` on two threads)",
    ),
    SystemCard(
        name="zsseg",
        paradigm="two-stage",
        title="A Simple Baseline for Open-Vocabulary Semantic Segmentation with Pre-trained Vision-language Model",
        venue="ECCV 2022",
        paper="https://arxiv.org/abs/2112.14757",
        code="https://github.com/MendelXu/zsseg.baseline",
        code_licence="",
        weights_licence="",
        meta_architecture="OVSeg",
        module="twostage.systems.two_stage.ovseg.model",
        configs=(
            "zsseg_r101c_vitb",
            "zsseg_r50_vitb",
            "toybox/zsseg",
        ),
        signatures={
            "": Signature(
                (
                    "clip_adapter.prompt_learner.",
                    "sem_seg_head.predictor.query_embed.",
                    "backbone.",
                ),
                absent=("LFM.",),
            ),
        },
        checked="runs OVSeg's code; no case of its own",
    ),
)
