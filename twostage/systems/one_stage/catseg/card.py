"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.one_stage.catseg.keys import GROUPS
from twostage.systems.one_stage.cost_aggregation import keys as cost_aggregation
from twostage.systems.one_stage.cost_aggregation.variants import keys as variants
from twostage.systems.one_stage.cost_aggregation.variants.presence import keys as presence

CARDS = (
    SystemCard(
        name="CAT-Seg",
        paradigm="one-stage",
        title="CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation",
        venue="CVPR 2024",
        paper="https://arxiv.org/abs/2303.11797",
        code="https://github.com/cvlab-kaist/CAT-Seg",
        code_licence="MIT",
        weights_licence="",
        meta_architecture="CATSeg",
        module="twostage.systems.one_stage.catseg.model",
        keys=(*GROUPS, *cost_aggregation.GROUPS, *variants.GROUPS, *presence.GROUPS),
        configs=(
            "catseg_vitb",
            "catseg_vitl",
            "catseg_v1_vitb_r101",
            "catseg_v1_vitl_swinb",
            "toybox/catseg",
        ),
        signatures={
            "v2": Signature(
                (
                    "sem_seg_head.predictor.clip_model.",
                    "sem_seg_head.predictor.transformer.layers.0.swin_block.",
                    "upsample1.",
                    "upsample2.",
                ),
                absent=("backbone.",),
                configs=("catseg_vitb", "catseg_vitl"),
            ),
            "v1": Signature(
                (
                    "sem_seg_head.predictor.clip_model.",
                    "sem_seg_head.predictor.transformer.layers.0.swin_block.",
                    "backbone.",
                ),
                absent=("upsample1.",),
                configs=("catseg_v1_vitb_r101", "catseg_v1_vitl_swinb"),
            ),
        },
        checked=(
            "the 11 public cases match, training and v1 included; tensors and trainable lists of all four "
            "variants equal the published ones"
        ),
        checkpoints=(
            OfficialCheckpoint(
                name="model_base.pth",
                source="https://huggingface.co/spaces/hamacojr/CAT-Seg-weights/resolve/main/model_base.pth",
                config="catseg_vitb",
                train="COCO-Stuff-171",
                note="v2, the CVPR version; holds the fine-tuned CLIP",
            ),
            OfficialCheckpoint(
                name="model_large.pth",
                source="https://huggingface.co/spaces/hamacojr/CAT-Seg-weights/resolve/main/model_large.pth",
                config="catseg_vitl",
                train="COCO-Stuff-171",
                note="v2, the CVPR version; holds the fine-tuned CLIP",
            ),
            OfficialCheckpoint(
                name="model_final_base.pth",
                source="https://huggingface.co/hamacojr/CAT-Seg/resolve/main/model_final_base.pth",
                config="catseg_v1_vitb_r101",
                train="COCO-Stuff-171",
                note=(
                    "v1, from the README before April 2024, which links to the file's page (/blob/ for /resolve/); "
                    "holds the fine-tuned CLIP and the ResNet-101"
                ),
            ),
            OfficialCheckpoint(
                name="model_final_large.pth",
                source="https://huggingface.co/hamacojr/CAT-Seg/resolve/main/model_final_large.pth",
                config="catseg_v1_vitl_swinb",
                train="COCO-Stuff-171",
                note=(
                    "v1, from the README before April 2024, which links to the file's page (/blob/ for /resolve/); "
                    "holds the fine-tuned CLIP and the Swin-B"
                ),
            ),
        ),
        figures=(
            PublishedFigures(
                system="CAT-Seg v2",
                variant="ViT-B/16",
                train="COCO-Stuff-171",
                miou={"A-847": 12.0, "PC-459": 19.0, "A-150": 31.8, "PC-59": 57.5, "PAS-20": 94.6, "PAS-20b": 77.3},
                rule="gt-present",
                source="README of the official repository",
                note=(
                    "a user measured PC-459 14.65 with the public checkpoint under an older Detectron2 evaluator "
                    "(project issue 24), other datasets as published"
                ),
            ),
            PublishedFigures(
                system="CAT-Seg v2",
                variant="ViT-L/14 (336)",
                train="COCO-Stuff-171",
                miou={"A-847": 16.0, "PC-459": 23.8, "A-150": 37.9, "PC-59": 63.3, "PAS-20": 97.0, "PAS-20b": 82.5},
                rule="gt-present",
                source="README of the official repository",
            ),
        ),
    ),
)
