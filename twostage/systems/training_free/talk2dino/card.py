"""Card of Talk2DINO."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.training_free.talk2dino.keys import GROUPS

_EIGHT = ("ade20k", "cityscapes", "coco_object", "coco_stuff", "context59", "context60", "voc20", "voc21")

CARDS = (
    SystemCard(
        name="Talk2DINO",
        paradigm="training-free",
        title="Talking to DINO: Bridging Self-Supervised Vision Backbones with Language for Open-Vocabulary Segmentation",
        venue="ICCV 2025",
        paper="https://arxiv.org/abs/2411.19331",
        code="https://github.com/lorebianchi98/Talk2DINO",
        code_licence="",
        weights_licence="Apache-2.0",
        meta_architecture="Talk2Dino",
        module="twostage.systems.training_free.talk2dino.model",
        keys=GROUPS,
        configs=("talk2dino_vitb", "toybox/talk2dino", *(f"training_free/talk2dino_{name}" for name in _EIGHT)),
        signatures={
            "": Signature(("linear_layer.",), absent=("visual.", "backbone.", "blocks.")),
        },
        checked="both public cases match (background cleaning, PAMR)",
        checkpoints=(
            OfficialCheckpoint(
                name="vitb_mlp_infonce.pth",
                source="https://github.com/lorebianchi98/Talk2DINO/tree/main/weights",
                config="talk2dino_vitb",
                train="captions of COCO 2014",
                note="the projection alone; CLIP and DINOv2 come from MODEL.CLIP.PRETRAINED and MODEL.FOUNDATION.PRETRAINED",
            ),
        ),
        figures=(
            PublishedFigures(
                system="Talk2DINO",
                variant="ViT-B/14",
                train="captions of COCO 2014",
                miou={"VOC21": 65.8, "Context59": 42.4, "COCO-Stuff": 30.2, "Cityscapes": 38.1},
                setting="training-free",
                source="public results board",
                note="with PAMR",
            ),
        ),
    ),
)
