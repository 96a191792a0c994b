"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.two_stage.odise.keys import GROUPS

_README = "https://github.com/NVlabs/ODISE"
# Its file names end in how the files' sha256 begin (odise/model_zoo/model_zoo.py).
_RELEASE = f"{_README}/releases/download/v1.0.0"
_FEATURES = ("backbone.feature_extractor.", "backbone.feature_projections.", "sem_seg_head.predictor.post_mask_embed.")

CARDS = (
    SystemCard(
        name="ODISE",
        paradigm="two-stage",
        title="Open-Vocabulary Panoptic Segmentation with Text-to-Image Diffusion Models",
        venue="CVPR 2023",
        paper="https://arxiv.org/abs/2303.04803",
        code=_README,
        code_licence="NVIDIA Source Code License (non-commercial)",
        weights_licence="CC BY-NC-SA 4.0 (and Stable Diffusion, which they run on, under CreativeML OpenRAIL-M)",
        meta_architecture="ODISE",
        module="twostage.systems.two_stage.odise.model",
        keys=GROUPS,
        configs=("odise_label", "odise_caption", "toybox/odise"),
        checked="all 9 public cases match; one hangs on rounding (`docs/RESULTS.md`)",
        signatures={
            "label": Signature((*_FEATURES, "category_head.text_proj."), configs=("odise_label",)),
            "caption": Signature((*_FEATURES, "word_head.text_proj."), configs=("odise_caption",)),
        },
        checkpoints=(
            OfficialCheckpoint(
                name="odise_label_coco_50e-b67d2efc.pth",
                source=f"{_RELEASE}/odise_label_coco_50e-b67d2efc.pth",
                config="odise_label",
                train="COCO panoptic",
                sha256="b67d2efc",
                note="trained part only: needs Stable Diffusion v1.3 and CLIP ViT-L/14-336",
            ),
            OfficialCheckpoint(
                name="odise_caption_coco_50e-853cc971.pth",
                source=f"{_RELEASE}/odise_caption_coco_50e-853cc971.pth",
                config="odise_caption",
                train="COCO panoptic masks, COCO captions",
                sha256="853cc971",
                note="trained part only: needs Stable Diffusion v1.3 and CLIP ViT-L/14-336",
            ),
            OfficialCheckpoint(
                name="sd-v1-3.ckpt",
                source="https://huggingface.co/CompVis/stable-diffusion-v-1-3-original/resolve/main/sd-v1-3.ckpt",
                config="",
                train="LAION-2B and parts of it",
                note=(
                    "Stable Diffusion v1.3 under CreativeML OpenRAIL-M, which the Hub may ask to accept; fits "
                    "MODEL.ODISE.DIFFUSION.PRETRAINED of every ODISE config"
                ),
            ),
        ),
        figures=(
            PublishedFigures(
                system="ODISE (label)",
                variant="SD v1.3 UNet + CLIP ViT-L/14-336",
                train="COCO panoptic",
                miou={"A-150": 29.9, "A-847": 11.1, "PC-59": 57.3, "PC-459": 14.5, "PAS-21": 84.6},
                pq={"A-150": 22.6},
                source=_README,
                note=(
                    "AP: A-150 14.4, COCO 46.0; COCO mIoU 65.2, PQ 55.4; a user re-ran PC-459 and got 17.9 (project issue "
                    "48): evaluator version"
                ),
            ),
            PublishedFigures(
                system="ODISE (caption)",
                variant="SD v1.3 UNet + CLIP ViT-L/14-336",
                train="COCO panoptic masks, COCO captions",
                miou={"A-150": 28.7, "A-847": 11.0, "PC-59": 55.3, "PC-459": 13.8, "PAS-21": 82.7},
                pq={"A-150": 23.4},
                source=_README,
                note="AP: A-150 13.9, COCO 38.4; COCO mIoU 52.4, PQ 45.6",
            ),
        ),
    ),
)
