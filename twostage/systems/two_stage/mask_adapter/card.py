"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.two_stage.fcclip.keys import GROUPS as FCCLIP
from twostage.systems.two_stage.maftp.keys import GROUPS as MAFTP
from twostage.systems.two_stage.mask_adapter.keys import GROUPS

_README = "README of the official repository"
_HUB = "https://huggingface.co/owl10/Mask-Adapter"
_DATASETS = ("A-847", "A-150", "PC-459", "PC-59", "PAS-20")

CARDS = (
    SystemCard(
        name="Mask-Adapter",
        paradigm="two-stage",
        title="Mask-Adapter: The Devil is in the Masks for Open-Vocabulary Segmentation",
        venue="CVPR 2025",
        paper="https://arxiv.org/abs/2412.04533",
        code="https://github.com/hustvl/MaskAdapter",
        code_licence="Apache-2.0",
        weights_licence="",
        meta_architecture="MaskAdapter",
        module="twostage.systems.two_stage.mask_adapter.model",
        keys=(*GROUPS, *MAFTP, *FCCLIP),
        configs=(
            "mask_adapter_fcclip_convnextl",
            "mask_adapter_maftp_convnextb",
            "mask_adapter_maftp_convnextl",
            "mask_adapter_warmup_fcclip_convnextl",
            "mask_adapter_warmup_maftp_convnextb",
            "mask_adapter_warmup_maftp_convnextl",
            "toybox/mask_adapter",
            "toybox/mask_adapter_warmup",
        ),
        signatures={
            "FC-CLIP": Signature(
                ("mask_adapter.", "sem_seg_head."), absent=("cdt.",), configs=("mask_adapter_fcclip_convnextl",)
            ),
            "MAFT+": Signature(
                ("mask_adapter.", "sem_seg_head.", "cdt."),
                configs=("mask_adapter_maftp_convnextb", "mask_adapter_maftp_convnextl"),
            ),
            "warm-up on FC-CLIP": Signature(
                ("mask_adapter.", "void_embedding."),
                absent=("cdt.", "sem_seg_head."),
                configs=("mask_adapter_warmup_fcclip_convnextl",),
            ),
            "warm-up on MAFT+": Signature(
                ("mask_adapter.", "cdt."),
                absent=("sem_seg_head.",),
                configs=("mask_adapter_warmup_maftp_convnextb", "mask_adapter_warmup_maftp_convnextl"),
            ),
        },
        checked="the 9 public cases match, both phases of training included; tensors, trainable lists equal the published",
        checkpoints=tuple(
            OfficialCheckpoint(name=name, source=_HUB, by_hand=True, config=config, train=train, note=note)
            for name, config, train, note in (
                ("fcclip_maskadapter.pth", "mask_adapter_fcclip_convnextl", "COCO panoptic", "holds CLIP and FC-CLIP"),
                ("maftp_l_withadapter.pth", "mask_adapter_maftp_convnextl", "COCO-Stuff-171", "holds CLIP and MAFT+"),
            )
        ),
        figures=tuple(
            PublishedFigures(
                system="Mask-Adapter",
                variant=variant,
                train=train,
                miou=dict(zip(_DATASETS, miou, strict=True)),
                source=_README,
                note=note,
            )
            for variant, train, miou, note in (
                (
                    "FC-CLIP ConvNeXt-L",
                    "COCO panoptic",
                    (14.1, 36.6, 19.3, 59.7, 95.5),
                    "FC-CLIP alone there: 14.8, 34.1, 18.2, 58.4, 95.4",
                ),
                (
                    "MAFT+ ConvNeXt-B",
                    "COCO-Stuff-171",
                    (14.2, 35.6, 17.9, 58.4, 95.1),
                    "MAFT+ alone there: 13.8, 34.5, 18.5, 57.5, 95.5",
                ),
                (
                    "MAFT+ ConvNeXt-L",
                    "COCO-Stuff-171",
                    (16.2, 38.2, 22.7, 60.4, 95.8),
                    "MAFT+ alone there: 15.5, 36.3, 21.2, 59.5, 96.4; the transfer in its panoptic form on semantic weights",
                ),
            )
        ),
    ),
)
