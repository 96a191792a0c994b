"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.two_stage.fcclip.keys import GROUPS

CARDS = (
    SystemCard(
        name="FC-CLIP",
        paradigm="two-stage",
        title="Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP",
        venue="NeurIPS 2023",
        paper="https://arxiv.org/abs/2308.02487",
        code="https://github.com/bytedance/fc-clip",
        code_licence="Apache-2.0",
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
        checkpoints=(
            OfficialCheckpoint(
                name="fcclip_cocopan.pth",
                source="https://drive.google.com/file/d/1-91PIns86vyNaL3CzMmDD39zKGnPMtvj/view",
                config="fcclip_convnextl",
                train="COCO panoptic",
                note="holds the frozen CLIP ConvNeXt-L",
            ),
            OfficialCheckpoint(
                name="fcclip_cocopan_r50.pth",
                source="https://drive.google.com/file/d/1tcB-8FNON-LwckXQbUyKcBA2G7TU65Zh/view",
                config="fcclip_r50",
                train="COCO panoptic",
                note="holds the frozen CLIP ResNet-50",
            ),
            OfficialCheckpoint(
                name="fcclip_rn101",
                source="https://drive.google.com/file/d/1P0mdgftReWzVbPQ0O0CSBfW3krHhTOj0/view",
                config="",
                train="COCO panoptic",
                note="fits fcclip_r50 with MODEL.CLIP.NAME RN101; its file name isn't stated",
            ),
            OfficialCheckpoint(
                name="fcclip_rn50x4",
                source="https://drive.google.com/file/d/1nUpUsNUE22eOV9skxv9IyIkmCbg5jrIF/view",
                config="",
                train="COCO panoptic",
                note="fits fcclip_r50 with MODEL.CLIP.NAME RN50x4; its file name isn't stated",
            ),
            OfficialCheckpoint(
                name="fcclip_rn50x16",
                source="https://drive.google.com/file/d/1rJu2UwwtI0VLDl9CyB8Mkgw9qHlnX70W/view",
                config="",
                train="COCO panoptic",
                note="fits fcclip_r50 with MODEL.CLIP.NAME RN50x16; its file name isn't stated",
            ),
            OfficialCheckpoint(
                name="fcclip_rn50x64",
                source="https://drive.google.com/file/d/1rvfFVp5p3PZQsHp2NGVEBeYYcqgVVaZX/view",
                config="",
                train="COCO panoptic",
                note="fits fcclip_r50 with MODEL.CLIP.NAME RN50x64; its file name isn't stated",
            ),
        ),
        figures=(
            PublishedFigures(
                system="FC-CLIP",
                variant="ResNet50",
                train="COCO panoptic",
                miou={"A-847": 7.1, "PC-459": 12.9, "A-150": 23.3, "PC-59": 50.5, "PAS-20": 89.5, "PAS-21": 75.9},
                pq={"A-150": 17.9},
                source="README of the official repository",
            ),
            PublishedFigures(
                system="FC-CLIP",
                variant="ResNet101",
                train="COCO panoptic",
                miou={"A-847": 7.7, "PC-459": 12.3, "A-150": 24.0, "PC-59": 48.9, "PAS-20": 91.3, "PAS-21": 77.6},
                pq={"A-150": 19.1},
                source="README of the official repository",
            ),
            PublishedFigures(
                system="FC-CLIP",
                variant="ResNet50x4",
                train="COCO panoptic",
                miou={"A-847": 8.7, "PC-459": 13.1, "A-150": 26.8, "PC-59": 54.0, "PAS-20": 92.9, "PAS-21": 79.0},
                pq={"A-150": 21.8},
                source="README of the official repository",
            ),
            PublishedFigures(
                system="FC-CLIP",
                variant="ResNet50x16",
                train="COCO panoptic",
                miou={"A-847": 10.3, "PC-459": 15.7, "A-150": 29.4, "PC-59": 56.4, "PAS-20": 94.5, "PAS-21": 80.7},
                pq={"A-150": 22.5},
                source="README of the official repository",
            ),
            PublishedFigures(
                system="FC-CLIP",
                variant="ResNet50x64",
                train="COCO panoptic",
                miou={"A-847": 10.8, "PC-459": 16.2, "A-150": 28.4, "PC-59": 55.7, "PAS-20": 95.1, "PAS-21": 80.3},
                pq={"A-150": 22.8},
                source="README of the official repository",
            ),
            PublishedFigures(
                system="FC-CLIP",
                variant="ConvNeXt-L",
                train="COCO panoptic",
                miou={"A-847": 14.8, "PC-459": 18.2, "A-150": 34.1, "PC-59": 58.4, "PAS-20": 95.4, "PAS-21": 81.8},
                pq={"A-150": 26.8},
                rule="gt-present",
                source="README of the official repository",
                note=(
                    "a user measured 13.8 on PC-459 with an older Detectron2 (project issue 27), all other datasets "
                    "as published"
                ),
            ),
        ),
    ),
)
