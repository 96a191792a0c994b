"""Card of Trident."""

from __future__ import annotations

from twostage.foundation.sam_signatures import OFFICIAL
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.training_free.trident.keys import GROUPS

_EIGHT = ("ade20k", "cityscapes", "coco_object", "coco_stuff", "context59", "context60", "voc20", "voc21")
_CONFIGS = ("trident", *(f"training_free/trident_{name}" for name in _EIGHT))

CARDS = (
    SystemCard(
        name="Trident",
        paradigm="training-free",
        title="Harnessing Vision Foundation Models for High-Performance, Training-Free Open Vocabulary Segmentation",
        venue="ICCV 2025",
        paper="https://arxiv.org/abs/2411.09219",
        code="https://github.com/YuHengsss/Trident",
        code_licence="Apache-2.0",
        weights_licence="",
        meta_architecture="Trident",
        module="twostage.systems.training_free.trident.model",
        keys=GROUPS,
        configs=(*_CONFIGS, "toybox/trident"),
        # Nothing is trained: its file is SAM's.
        signatures={"SAM": OFFICIAL},
        checked="the 3 public cases match (ties at a threshold on some processors, `docs/RESULTS.md`)",
        checkpoints=(
            OfficialCheckpoint(
                name="sam_vit_b_01ec64.pth",
                source="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
                config="trident",
                train="SA-1B",
                note="SAM alone, Apache-2.0; CLIP and DINO come from MODEL.CLIP.PRETRAINED and MODEL.FOUNDATION.PRETRAINED",
            ),
        ),
        figures=(
            PublishedFigures(
                system="Trident",
                variant="ViT-H/14",
                train="",
                miou={
                    "VOC21": 70.8,
                    "Context60": 40.1,
                    "COCO-Object": 42.2,
                    "VOC20": 88.7,
                    "Cityscapes": 47.6,
                    "Context59": 44.3,
                    "ADE20K": 26.7,
                    "COCO-Stuff": 28.6,
                },
                setting="training-free",
                source="public results board",
            ),
        ),
    ),
)
