"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, SystemCard
from twostage.systems.two_stage.scan.keys import GROUPS

_FOLDER = "https://drive.google.com/drive/folders/1obgHGQngtQms0u5YUJRnwd4y1IzME-c8"

CARDS = (
    SystemCard(
        name="SCAN",
        paradigm="two-stage",
        title="Open-Vocabulary Segmentation with Semantic-Assisted Calibration",
        venue="CVPR 2024",
        paper="https://arxiv.org/abs/2312.04089",
        code="https://github.com/yongliu20/SCAN",
        code_licence="CC BY-NC 4.0",
        weights_licence="",
        meta_architecture="SCAN",
        module="twostage.systems.two_stage.scan.model",
        keys=GROUPS,
        configs=(
            "scan_vitb",
            "scan_vitl",
            "toybox/scan",
        ),
        signatures={
            "": Signature(
                (
                    "learnable_weight",
                    "LFM.",
                    "clip_adapter.original_clip.",
                    "sem_seg_head.predictor.",
                )
            ),
        },
        checked=(
            "the 3 public cases match, training included (ADE20K size on two threads); ViT-L equals the authors' "
            "code at small size"
        ),
        checkpoints=(
            OfficialCheckpoint(
                name="SCAN.pth",
                source=_FOLDER,
                config="scan_vitl",
                train="COCO-Stuff-171",
                by_hand=True,
                note="a folder of Drive, which also holds the contextual-shifted CLIP by itself",
            ),
            OfficialCheckpoint(
                name="SCAN-vitB.pth",
                source=_FOLDER,
                config="scan_vitb",
                train="COCO-Stuff-171",
                by_hand=True,
                note="in the same folder since September 2024, as the authors say in issue 9 of their project",
            ),
        ),
    ),
)
