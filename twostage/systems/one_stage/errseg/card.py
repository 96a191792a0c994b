"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.one_stage.errseg.keys import GROUPS

CARDS = (
    SystemCard(
        name="ERR-Seg",
        paradigm="one-stage",
        title="Efficient Redundancy Reduction for Open-Vocabulary Semantic Segmentation",
        venue="Neurocomputing 2025",
        paper="https://arxiv.org/abs/2501.17642",
        code="https://github.com/lchen1019/ERR-Seg",
        code_licence="MIT",
        weights_licence="",
        meta_architecture="ERRSeg",
        module="twostage.systems.one_stage.errseg.model",
        keys=GROUPS,
        configs=("errseg_convnextb", "errseg_convnextl", "toybox/errseg"),
        signatures={
            "": Signature(
                (
                    "sem_seg_head.clip_model.visual.modify_downsample.",
                    "sem_seg_head.decoder.corr_proj_convs.",
                    "sem_seg_head.decoder.aggregator_layers.0.spatial_fusion.",
                )
            ),
        },
        checked="the 6 public cases match, training included; tensors and trainable lists equal the published ones",
        checkpoints=(
            OfficialCheckpoint(
                name="errseg_convnextb",
                source="https://huggingface.co/lchen1019/ERR-Seg",
                by_hand=True,
                config="errseg_convnextb",
                train="COCO-Stuff-171",
                note="the repository's file names could not be read; holds the fine-tuned CLIP",
            ),
            OfficialCheckpoint(
                name="errseg_convnextl",
                source="https://huggingface.co/lchen1019/ERR-Seg",
                by_hand=True,
                config="errseg_convnextl",
                train="COCO-Stuff-171",
                note="the repository's file names could not be read; holds the fine-tuned CLIP",
            ),
        ),
        figures=(
            PublishedFigures(
                system="ERR-Seg",
                variant="ConvNeXt-B",
                train="COCO-Stuff-171",
                miou={"A-847": 13.9, "PC-459": 20.5, "A-150": 35.8, "PC-59": 56.9, "PAS-20": 95.4},
                rule="gt-present",
                source="README of the official repository",
                note="48, 48, 32, 24 and 16 classes kept per image",
            ),
            PublishedFigures(
                system="ERR-Seg",
                variant="ConvNeXt-L",
                train="COCO-Stuff-171",
                miou={"A-847": 16.9, "PC-459": 23.9, "A-150": 38.3, "PC-59": 60.7, "PAS-20": 96.6},
                rule="gt-present",
                source="README of the official repository",
                note="48, 48, 32, 24 and 16 classes kept per image",
            ),
        ),
    ),
)
