"""Card of CorrCLIP."""

from __future__ import annotations

from twostage.systems.card import PublishedFigures, SystemCard
from twostage.systems.mask_sources.keys import GROUPS as MASKS
from twostage.systems.training_free.corrclip.keys import GROUPS

_EIGHT = ("ade20k", "cityscapes", "coco_object", "coco_stuff", "context59", "context60", "voc20", "voc21")
_ORDER = ("VOC21", "VOC20", "Context59", "Context60", "Cityscapes", "ADE20K", "COCO-Stuff", "COCO-Object")


def _figures(masks: str, *miou: float, note: str = "") -> PublishedFigures:
    return PublishedFigures(
        system="CorrCLIP",
        variant=f"ViT-B/16, {masks}",
        train="",
        miou=dict(zip(_ORDER, miou, strict=True)),
        setting="training-free",
        source="README of the official repository",
        note=note,
    )


_COCO = "masks learnt from COCO's labels"

CARDS = (
    SystemCard(
        name="CorrCLIP",
        paradigm="training-free",
        title="CorrCLIP: Reconstructing Patch Correlations in CLIP for Open-Vocabulary Semantic Segmentation",
        venue="ICCV 2025",
        paper="https://arxiv.org/abs/2411.10086",
        code="https://github.com/zdk258/CorrCLIP",
        code_licence="",
        weights_licence="",
        meta_architecture="CorrClip",
        module="twostage.systems.training_free.corrclip.model",
        keys=(*MASKS, *GROUPS),
        configs=("corrclip", *(f"training_free/corrclip_{name}" for name in _EIGHT), "toybox/corrclip"),
        checked="the 3 public cases match (small, padded windows, the image tower with given regions)",
        figures=(
            _figures("SAM 2 (32 points a side)", 74.8, 88.8, 48.8, 44.2, 49.4, 26.9, 31.6, 43.7),
            _figures("Mask2Former", 73.9, 87.8, 48.2, 43.7, 44.3, 24.6, 33.9, 46.2, note=_COCO),
            _figures("EoMT", 76.0, 90.6, 50.4, 45.4, 48.0, 26.7, 34.5, 46.6, note=_COCO),
            _figures("EntitySeg", 76.2, 89.6, 50.7, 45.7, 51.6, 28.6, 32.4, 44.5),
        ),
    ),
)
