"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import PublishedFigures, SystemCard
from twostage.systems.one_stage.catseg.keys import GROUPS as CATSEG
from twostage.systems.one_stage.cost_aggregation import keys as cost_aggregation
from twostage.systems.one_stage.cost_aggregation.variants import keys as variants
from twostage.systems.one_stage.cost_aggregation.variants.presence import keys as presence
from twostage.systems.one_stage.pcaseg.keys import GROUPS

_LAYER = "sem_seg_head.predictor.transformer.layers.0.swin_block_first."

CARDS = (
    SystemCard(
        name="PCA-Seg",
        paradigm="one-stage",
        title="PCA-Seg: Revisiting Cost Aggregation for Open-Vocabulary Semantic and Part Segmentation",
        venue="CVPR 2026",
        paper="https://arxiv.org/abs/2603.17520",
        code="https://github.com/PixelSegTech/PCA-Seg",
        code_licence="MIT",
        weights_licence="",
        meta_architecture="PCASeg",
        module="twostage.systems.one_stage.pcaseg.model",
        keys=(*GROUPS, *CATSEG, *cost_aggregation.GROUPS, *variants.GROUPS, *presence.GROUPS),
        configs=("pcaseg_vitb", "pcaseg_vitl", "pcaseg_eva_vitb", "pcaseg_eva_vitl", "toybox/pcaseg"),
        signatures={
            "OpenAI": Signature(
                ("sem_seg_head.predictor.clip_model.visual.transformer.", _LAYER),
                configs=("pcaseg_vitb", "pcaseg_vitl"),
            ),
            "EVA02": Signature(
                ("sem_seg_head.predictor.clip_model.visual.blocks.", _LAYER),
                configs=("pcaseg_eva_vitb", "pcaseg_eva_vitl"),
            ),
        },
        checked="the 5 public cases match, training and EVA02 included; tensors and trainable lists equal the published ones",
        figures=(
            PublishedFigures(
                system="PCA-Seg",
                variant="best",
                train="COCO-Stuff-171",
                miou={"A-847": 18.3, "PC-459": 26.7, "A-150": 41.5, "PC-59": 64.7, "PAS-20": 98.4},
                rule="gt-present",
                source="wizwand board, from the paper",
                note="the page does not say which CLIP; presumably EVA02-L tuned by DeCLIP. The repository links no weights",
            ),
        ),
    ),
)
