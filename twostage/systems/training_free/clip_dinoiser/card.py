"""Card of CLIP-DINOiser."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, SystemCard
from twostage.systems.training_free.clip_dinoiser.keys import GROUPS

_EIGHT = ("ade20k", "cityscapes", "coco_object", "coco_stuff", "context59", "context60", "voc20", "voc21")

CARDS = (
    SystemCard(
        name="CLIP-DINOiser",
        paradigm="training-free",
        title="CLIP-DINOiser: Teaching CLIP a few DINO tricks for open-vocabulary semantic segmentation",
        venue="ECCV 2024",
        paper="https://arxiv.org/abs/2312.12359",
        code="https://github.com/wysoczanska/clip_dinoiser",
        code_licence="Apache-2.0",
        weights_licence="",
        meta_architecture="ClipDinoiser",
        module="twostage.systems.training_free.clip_dinoiser.model",
        keys=GROUPS,
        configs=("clip_dinoiser", "toybox/clip_dinoiser", *(f"training_free/clip_dinoiser_{name}" for name in _EIGHT)),
        signatures={"": Signature(("obj_proj.", "bkg_decoder."))},
        checked="the public case matches",
        checkpoints=(
            OfficialCheckpoint(
                name="last.pt",
                source="https://github.com/wysoczanska/clip_dinoiser/tree/main/checkpoints",
                config="clip_dinoiser",
                train="1,000 pictures of ImageNet without labels",
                note="the head alone; CLIP comes from MODEL.CLIP.PRETRAINED",
            ),
        ),
    ),
)
