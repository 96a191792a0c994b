"""Card of CLIP-DIY."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.training_free.clip_diy.keys import GROUPS

CARDS = (
    SystemCard(
        name="CLIP-DIY",
        paradigm="training-free",
        title="CLIP-DIY: CLIP Dense Inference Yields Open-Vocabulary Semantic Segmentation For-Free",
        venue="WACV 2024",
        paper="https://arxiv.org/abs/2309.14289",
        code="https://github.com/wysoczanska/clip-diy",
        code_licence="",
        weights_licence="Apache-2.0",
        meta_architecture="ClipDiy",
        module="twostage.systems.training_free.clip_diy.model",
        keys=GROUPS,
        configs=("clip_diy", "toybox/clip_diy"),
        signatures={"": Signature(("weight", "bias"))},
        checked="no case; compared with a written-out form at tiny size",
        checkpoints=(
            OfficialCheckpoint(
                name="decoder_weights.pt",
                source="https://github.com/valeoai/FOUND/raw/main/data/weights/decoder_weights.pt",
                config="clip_diy",
                train="pictures of DUTS-TR without labels",
                size=2689,
                note="FOUND's head alone; CLIP and DINO come from MODEL.CLIP.PRETRAINED and MODEL.FOUNDATION.PRETRAINED",
            ),
        ),
        figures=(
            PublishedFigures(
                system="CLIP-DIY",
                variant="ViT-B/32, FOUND on DINO ViT-S/8",
                train="",
                miou={
                    "VOC21": 59.9,
                    "Context60": 19.7,
                    "COCO-Object": 31.0,
                    "VOC20": 79.7,
                    "Cityscapes": 11.6,
                    "Context59": 19.8,
                    "ADE20K": 9.9,
                    "COCO-Stuff": 13.3,
                },
                setting="training-free",
                source="public results board",
                note="the board does not say which of these are the authors' own runs",
            ),
        ),
    ),
)
