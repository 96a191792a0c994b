"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
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
        code_licence="Apache-2.0",
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
        checkpoints=(
            OfficialCheckpoint(
                name="sed_model_base.pth",
                source="https://drive.google.com/file/d/1qx6zGZgSPkF6TObregRz4uzQqSRHrgUw/view",
                config="sed_convnextb",
                train="COCO-Stuff-171",
                note="holds the fine-tuned CLIP; also for SED-fast",
            ),
            OfficialCheckpoint(
                name="sed_model_large.pth",
                source="https://drive.google.com/file/d/1zAXE0QXy47n0cVn7j_2cSR85eqxdDGg8/view",
                config="sed_convnextl",
                train="COCO-Stuff-171",
                note="holds the fine-tuned CLIP; also for SED-fast",
            ),
        ),
        figures=(
            PublishedFigures(
                system="SED",
                variant="ConvNeXt-B",
                train="COCO-Stuff-171",
                miou={"A-847": 11.2, "PC-459": 18.6, "A-150": 31.8, "PC-59": 57.7, "PAS-20": 94.4},
                rule="gt-present",
                source="README of the official repository (paper: 11.4/18.6/31.6/57.3/94.4)",
            ),
            PublishedFigures(
                system="SED-fast",
                variant="ConvNeXt-B, top-8",
                train="COCO-Stuff-171",
                miou={"A-847": 11.4, "PC-459": 18.6, "A-150": 31.6, "PC-59": 57.3, "PAS-20": 94.4},
                rule="gt-present",
                source="README of the official repository",
            ),
            PublishedFigures(
                system="SED",
                variant="ConvNeXt-L",
                train="COCO-Stuff-171",
                miou={"A-847": 13.7, "PC-459": 22.1, "A-150": 35.3, "PC-59": 60.9, "PAS-20": 96.1},
                rule="gt-present",
                source="README of the official repository",
            ),
            PublishedFigures(
                system="SED-fast",
                variant="ConvNeXt-L, top-8",
                train="COCO-Stuff-171",
                miou={"A-847": 13.9, "PC-459": 22.6, "A-150": 35.2, "PC-59": 60.6, "PAS-20": 96.1},
                rule="gt-present",
                source="README of the official repository",
            ),
        ),
    ),
)
