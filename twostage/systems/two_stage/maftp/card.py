"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.two_stage.fcclip.keys import GROUPS as FCCLIP
from twostage.systems.two_stage.maftp.keys import GROUPS

_README = "README of the official repository"
_REPOSITORY = "https://github.com/jiaosiyu1999/MAFT-Plus"

CARDS = (
    SystemCard(
        name="MAFT+",
        paradigm="two-stage",
        title="Collaborative Vision-Text Representation Optimizing for Open-Vocabulary Segmentation",
        venue="ECCV 2024",
        paper="https://arxiv.org/abs/2408.00744",
        code=_REPOSITORY,
        code_licence="MIT",
        weights_licence="",
        meta_architecture="MAFTPlus",
        module="twostage.systems.two_stage.maftp.model",
        keys=(*GROUPS, *FCCLIP),
        configs=("maftp_convnextb", "maftp_convnextl", "maftp_convnextl_panoptic", "toybox/maftp"),
        signatures={"": Signature(("backbone.clip_model.", "sem_seg_head.", "cdt."), absent=("mask_adapter.",))},
        checked="the 3 public cases match, training included; tensors and trainable lists equal the published ones",
        checkpoints=tuple(
            OfficialCheckpoint(name=name, source=_REPOSITORY, by_hand=True, config=config, train=train, note=note)
            for name, config, train, note in (
                ("maftp_b.pth", "maftp_convnextb", "COCO-Stuff-171", "holds the trained CLIP ConvNeXt-B"),
                ("maftp_l.pth", "maftp_convnextl", "COCO-Stuff-171", "holds the trained CLIP ConvNeXt-L"),
                ("maftp_l_pano.pth", "maftp_convnextl_panoptic", "COCO panoptic", "holds the trained CLIP ConvNeXt-L"),
            )
        ),
        figures=(
            PublishedFigures(
                system="MAFT+",
                variant="ConvNeXt-B",
                train="COCO-Stuff-171",
                miou={"A-847": 13.8, "PC-459": 16.2, "A-150": 34.6, "PC-59": 57.5, "PAS-20": 95.4},
                source=_README,
                note="Mask-Adapter's authors measured 18.5 on PC-459 with the same file, the others within 0.1",
            ),
            PublishedFigures(
                system="MAFT+",
                variant="ConvNeXt-L",
                train="COCO-Stuff-171",
                miou={"A-847": 15.1, "PC-459": 21.6, "A-150": 36.1, "PC-59": 59.4, "PAS-20": 96.5},
                source=_README,
                note="the panoptic file, trained on COCO panoptic, has PQ 27.1, SQ 73.5, RQ 32.9 on A-150",
            ),
        ),
    ),
)
