"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.one_stage.groupvit.keys import GROUPS

_COLUMNS = ("VOC21", "Context60", "COCO-Object")
_HUB = "https://huggingface.co/nvidia"
_NOTE = "transformers' layout; MODEL.GROUPVIT.PRETRAINED takes the repository as a whole"
_PAGE = "https://github.com/xvjiarui/GroupViT#benchmark-results"
_PAGE_NOTE = "the authors' layout; MODEL.WEIGHTS takes the file, with MODEL.GROUPVIT.PRETRAINED ''"
_TRAIN = {"yfcc": "CC3M, CC12M and YFCC14M captions", "redcaps": "CC3M, CC12M and RedCaps captions"}
# Variants by who laid out the file.
TRANSFORMERS, AUTHORS = "transformers", "authors"

CARDS = (
    SystemCard(
        name="GroupViT",
        paradigm="one-stage",
        title="GroupViT: Semantic Segmentation Emerges from Text Supervision",
        venue="CVPR 2022",
        paper="https://arxiv.org/abs/2202.11094",
        code="https://github.com/NVlabs/GroupViT",
        code_licence="NVIDIA Source Code License for GroupViT",
        weights_licence="",
        meta_architecture="GroupViT",
        module="twostage.systems.one_stage.groupvit.model",
        keys=GROUPS,
        configs=("groupvit",),
        signatures={
            TRANSFORMERS: Signature(("vision_model.encoder.stages.", "text_model.", "visual_projection.")),
            AUTHORS: Signature(("img_encoder.layers.", "text_encoder.transformer.", "img_projector.")),
        },
        checked="no case; the network is transformers', naming is compared with a written-out form at tiny size",
        checkpoints=tuple(
            OfficialCheckpoint(
                name=name, source=source, config="groupvit", train=_TRAIN[captions], by_hand=True, note=note
            )
            for name, source, captions, note in (
                ("groupvit-gcc-yfcc", f"{_HUB}/groupvit-gcc-yfcc", "yfcc", _NOTE),
                ("groupvit-gcc-redcaps", f"{_HUB}/groupvit-gcc-redcaps", "redcaps", _NOTE),
                ("group_vit_gcc_yfcc_30e-879422e0.pth", _PAGE, "yfcc", _PAGE_NOTE),
                ("group_vit_gcc_redcap_30e-3dd09a76.pth", _PAGE, "redcaps", _PAGE_NOTE),
            )
        ),
        figures=tuple(
            PublishedFigures(
                system="GroupViT",
                variant="ViT-S/16",
                train=train,
                miou=dict(zip(_COLUMNS, miou, strict=True)),
                setting="training-free",
                source="README of the official repository",
                note="windows of 448 pixels; learns from captions alone",
            )
            for train, miou in (("GCC, YFCC", (52.3, 22.4, 24.3)), ("GCC, RedCaps", (50.8, 23.7, 27.5)))
        ),
    ),
)
