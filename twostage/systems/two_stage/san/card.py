"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.two_stage.san.keys import GROUPS

CARDS = (
    SystemCard(
        name="SAN",
        paradigm="two-stage",
        title="Side Adapter Network for Open-Vocabulary Semantic Segmentation",
        venue="CVPR 2023",
        paper="https://arxiv.org/abs/2302.12242",
        code="https://github.com/MendelXu/SAN",
        code_licence="MIT",
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
        checkpoints=(
            OfficialCheckpoint(
                name="san_vit_b_16.pth",
                source="https://huggingface.co/Mendel192/san/resolve/main/san_vit_b_16.pth",
                config="san_vitb",
                train="COCO-Stuff-171",
                note="holds the frozen CLIP, too",
            ),
            OfficialCheckpoint(
                name="san_vit_large_14.pth",
                source="https://huggingface.co/Mendel192/san/resolve/main/san_vit_large_14.pth",
                config="san_vitl",
                train="COCO-Stuff-171",
                note="holds the frozen CLIP, too",
            ),
        ),
        figures=(
            PublishedFigures(
                system="SAN",
                variant="ViT-B/16",
                train="COCO-Stuff-171",
                miou={"A-847": 10.1, "PC-459": 12.6, "A-150": 27.5, "PC-59": 53.8, "PAS-20": 94.0},
                rule="pred-or-gt",
                source="the paper; agrees with the official log",
                note=(
                    "the official log: A-847 10.21, PC-459 16.71 (12.56 when the IoU sum is divided by 459), A-150 "
                    "27.56, PC-59 54.07, PAS-20 93.95, COCO-Stuff-171 41.93"
                ),
            ),
            PublishedFigures(
                system="SAN",
                variant="ViT-L/14",
                train="COCO-Stuff-171",
                miou={"A-847": 12.4, "PC-459": 15.7, "A-150": 32.1, "PC-59": 57.7, "PAS-20": 94.6},
                rule="pred-or-gt",
                source="the paper; agrees with the official log",
                note=(
                    "the official log: A-847 12.96, PC-459 20.83 (15.66 over 459), A-150 31.93, PC-59 57.53, PAS-20 "
                    "95.18, COCO-Stuff-171 45.57"
                ),
            ),
        ),
    ),
)
