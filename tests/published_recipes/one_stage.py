"""Published settings of one-stage systems."""

from __future__ import annotations

from typing import Any

from published_recipes.pieces import (
    BASE,
    CLIP,
    FIRST_SYNONYM,
    IMAGENET,
    LARGE,
    STUFF,
    Settings,
    block,
    clip,
    cosine,
    crops,
    data,
    solver,
    statistics,
)

# CAT-Seg: facts 1, 3, 4, 8, 9; version 1: facts 10. PCA-Seg: facts 2, 7.
CATSEG = {
    **data(STUFF, "coco_2017_test_stuff_sem_seg", size=(640, 2560)),
    **crops(384, (384,), 1333),
    **solver(2e-4, 4, 80000, 1e-4, amp=False),
    **cosine(),
    **statistics(CLIP),
    **block("MODEL.CATSEG", LAYERS=2, HEADS=4, CHANNELS=128, POOLING=2, TEST_POOLING=1, SIZE_DIVISIBILITY=32),
    **block("TEST.SLIDING", ENABLED=True, TILE=384, STRIDE=256, CANVAS=640, WHOLE_IMAGE=True),
    "SOLVER.CLIP_MULTIPLIER": 0.01,
}
CATSEG_B = {
    **CATSEG,
    **clip("ViT-B-16", "openai", "scene", FINETUNE="query_value", **FIRST_SYNONYM),
    **block("MODEL.CATSEG", RESOLUTION=384, TAPS=[4, 8], CLASS_SLOTS=256),
}
CATSEG_L = {
    **CATSEG,
    **clip("ViT-L-14-336", "openai", "scene", FINETUNE="query_value", **FIRST_SYNONYM),
    **block("MODEL.CATSEG", RESOLUTION=336, TAPS=[8, 16], CLASS_SLOTS=256),
}
CATSEG_V1 = {**CATSEG, "MODEL.CATSEG.CLASS_SLOTS": 0, "MODEL.CATSEG.BACKBONE.RESOLUTION": 384}
V1_CLIP: dict[str, Any] = {"FINETUNE": "visual_attention", "SPLIT_SYNONYMS": True, "FIRST_SYNONYM": False}
EVA = {"SOLVER.IMS_PER_BATCH": 8, "MODEL.CLIP.FINETUNE": "eva_query_value"}
# SED: facts 3, 5, 8, 10; the fast rows of its table keep 8 classes a pixel.
SED = {
    **data(STUFF, "coco_2017_test_stuff_sem_seg", size=(640, 2560)),
    **crops(768, (768,), 2666),
    **solver(2e-4, 4, 80000, 1e-4, amp=False),
    **cosine(),
    **block("MODEL.SED", RESOLUTION=768, TRAIN_POOLING=2, TEST_POOLING=1, SIZE_DIVISIBILITY=32, KERNEL_SIZES=[9, 9, 9]),
    **block("TEST.EARLY_REJECTION", ENABLED=False, TOP_K=8),
    "SOLVER.CLIP_MULTIPLIER": 0.01,
}
SED_CLIP: dict[str, Any] = {"FINETUNE": "visual", "SPLIT_SYNONYMS": True, "FIRST_SYNONYM": False}
# ERR-Seg: facts 2, 3, 5, 10.
ERRSEG = {
    **data(STUFF, "coco_2017_test_stuff_sem_seg", size=(800, 1333)),
    **crops(640, (640,), 1333),
    **solver(2e-4, 4, 80000, 1e-4, None, amp=True),
    **cosine(1000, 0.001),
    **statistics(IMAGENET),
    **block("MODEL.ERRSEG", RESOLUTION=640, SLOTS=32, TEST_SLOTS=32, SIZE_DIVISIBILITY=640),
    "SOLVER.CLIP_MULTIPLIER": 0.01,
}

RECIPES: dict[str, Settings] = {
    "catseg_vitb": CATSEG_B,
    "catseg_vitl": CATSEG_L,
    "catseg_v1_vitb_r101": {
        **CATSEG_V1,
        **clip("ViT-B-16", "openai", "imagenet", **V1_CLIP),
        "SOLVER.BACKBONE_MULTIPLIER": 0.01,
    },
    "catseg_v1_vitl_swinb": {
        **CATSEG_V1,
        **clip("ViT-L-14-336", "openai", "imagenet", **V1_CLIP),
        "SOLVER.BACKBONE_MULTIPLIER": 0.0,
    },
    "pcaseg_vitb": CATSEG_B,
    "pcaseg_vitl": CATSEG_L,
    "pcaseg_eva_vitb": {**CATSEG_B, **clip("EVA02-B-16", "merged2b_s8b_b131k", "scene"), **EVA, "SOLVER.BASE_LR": 5e-4},
    "pcaseg_eva_vitl": {
        **CATSEG_L,
        **clip("EVA02-L-14-336", "merged2b_s6b_b61k", "scene"),
        **EVA,
        "SOLVER.BASE_LR": 3e-4,
    },
    "sed_convnextb": {**SED, **clip(BASE[0], "laion_aesthetic_s13b_b82k", "imagenet", **SED_CLIP)},
    "sed_convnextl": {**SED, **clip(*LARGE, "imagenet", **SED_CLIP)},
    "errseg_convnextb": {
        **ERRSEG,
        **clip(BASE[0], "laion_aesthetic_s13b_b82k", "scene", FINETUNE="weights", **FIRST_SYNONYM),
        "MODEL.ERRSEG.TEST_RESOLUTION": 640,
    },
    "errseg_convnextl": {
        **ERRSEG,
        **clip(*LARGE, "scene", FINETUNE="weights", **FIRST_SYNONYM),
        "MODEL.ERRSEG.TEST_RESOLUTION": 768,
    },
}
