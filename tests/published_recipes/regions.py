"""Published settings of two-stage systems on MaskFormer's masks or their own (SAN, OVSeg, zsseg, SCAN)."""

from __future__ import annotations

from published_recipes.pieces import (
    BASE_STUFF,
    CLIP,
    IMAGENET,
    MASK_LOSS,
    STUFF,
    Settings,
    block,
    clip,
    crops,
    data,
    every,
    poly,
    solver,
    statistics,
)

# Side adapter: facts 1, 3, 6 to 8.
SAN = {
    **data(STUFF, "coco_2017_test_stuff_sem_seg", size=(640, 2560)),
    **crops(640, every(64, 5, 16), 2560),
    **solver(1e-4, 32, 60000, 1e-4, amp=True),
    **poly(),
    **statistics(CLIP),
    **MASK_LOSS,
    **block("SOLVER", BACKBONE_MULTIPLIER=1.0, CLIP_MULTIPLIER=1.0),
    **block("MODEL.SAN", NUM_QUERIES=100, SIZE_DIVISIBILITY=32, IMAGE_SIZE=640, WIDTH=240, AUXILIARY_BLOCKS=[7]),
}
# OVSeg: facts 1, 2, 11; zsseg: facts 14 and the repository's configs for A-150 and for the 156 classes.
OVSEG = {
    **data(STUFF, "ade20k_sem_seg_val", size=(512, 2048)),
    **crops(512, (800,), 1333),
    **solver(2e-4, 32, 120000, 1e-4, amp=False),
    **poly(1500, 1e-6),
    **statistics(IMAGENET),
    **block(
        "MODEL.OVSEG", MASK_THRESHOLD=0.5, ENSEMBLE_WEIGHT=0.7, MASK_PROMPTS=True, EXPAND_RATIO=1.0, SEEN_CLASSES_OF=""
    ),
    **block("MODEL.MASKFORMER", NUM_QUERIES=100, LAYERS=6, DROPOUT=0.1),
    **block("MODEL.MASK_LOSS", CLASS_WEIGHT=1.0, MASK_WEIGHT=20.0, DICE_WEIGHT=1.0, NO_OBJECT_WEIGHT=0.1),
    **clip("ViT-B-16", "openai", "vild", MASK_PROMPT_DEPTH=3, SPLIT_SYNONYMS=False),
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "MODEL.BACKBONE.FREEZE_AT": 2,
}
OVSEG_L = {
    **OVSEG,
    **data(STUFF, "ade20k_sem_seg_val", size=(640, 2560)),
    **crops(640, every(64, 5, 21), 2560),
    **solver(6e-5, 32, 120000, 0.01, amp=False),
    **clip("ViT-L-14", "openai", "vild", MASK_PROMPT_DEPTH=3, SPLIT_SYNONYMS=False),
    "SOLVER.BACKBONE_MULTIPLIER": 1.0,
    "MODEL.OVSEG.MASK_THRESHOLD": 0.4,
}
ZSSEG = {
    **OVSEG,
    **data(BASE_STUFF, "ade20k_sem_seg_val", size=(512, 2048)),
    **crops(640, every(64, 5, 16), 2560),
    **solver(1e-4, 32, 120000, 1e-4, amp=False),
    **poly(),
    **block("MODEL.OVSEG", MASK_THRESHOLD=0.4, ENSEMBLE_WEIGHT=0.5, MASK_PROMPTS=False),
    "SOLVER.WARMUP_FACTOR": 1.0,
    "MODEL.CLIP.MASK_PROMPT_DEPTH": 0,
    "MODEL.BACKBONE.FREEZE_AT": 0,
}
# SCAN: facts 1, 4, 5; A-150's settings.
SCAN = {
    **data(STUFF, "ade20k_sem_seg_val", size=(640, 2560)),
    **crops(640, every(64, 5, 21), 2560),
    **solver(6e-5, 32, 120000, 0.01, amp=False),
    **poly(1500, 1e-6),
    **statistics(IMAGENET),
    **MASK_LOSS,
    **block("MODEL.SCAN", FREQUENCY_SIGMA=[9.0, 7.0, 3.0], SHIFT_RATIO=0.05, WEIGH_VOID=False),
    "SOLVER.BACKBONE_MULTIPLIER": 1.0,
    "MODEL.MASK2FORMER.NUM_QUERIES": 100,
}

RECIPES: dict[str, Settings] = {
    "san_vitb": {
        **SAN,
        **clip("ViT-B-16", "openai", "vild", QUICK_GELU="on", SPLIT_SYNONYMS=False),
        "MODEL.SAN.CLIP_RESOLUTION": 0.5,
    },
    "san_vitl": {
        **SAN,
        **clip("ViT-L-14-336", "openai", "vild", QUICK_GELU="on", SPLIT_SYNONYMS=False),
        "MODEL.SAN.CLIP_RESOLUTION": 0.7,
    },
    "ovseg_r101c_vitb": OVSEG,
    "ovseg_swinb_vitl": OVSEG_L,
    "ovseg_demo": {**OVSEG_L, "MODEL.OVSEG.MASK_THRESHOLD": 0.35, "MODEL.OVSEG.ENSEMBLE_WEIGHT": 0.0},
    "zsseg_r101c_vitb": {**ZSSEG, "MODEL.RESNETS.DEPTH": 101, "MODEL.RESNETS.RES5_MULTI_GRID": [1, 2, 4]},
    "zsseg_r50_vitb": {
        **ZSSEG,
        **data(BASE_STUFF, "coco_stuff_zero_shot_val", size=(640, 2560)),
        **block("MODEL.OVSEG", MASK_THRESHOLD=0.5, ENSEMBLE_WEIGHT=0.8, SEEN_CLASSES_OF=BASE_STUFF),
        "SOLVER.MAX_ITER": 60000,
        "MODEL.RESNETS.DEPTH": 50,
    },
    "scan_vitb": {
        **SCAN,
        **clip("ViT-B-16", "datacomp_xl_s13b_b90k", "vild", SPLIT_SYNONYMS=False),
        **block(
            "MODEL.SCAN", MASK_THRESHOLD=0.4, ENSEMBLE_WEIGHT=0.7, CONTEXT_BLOCKS=[6, 9, 12], SHIFT_BLOCKS=[1, 3, 5]
        ),
    },
    "scan_vitl": {
        **SCAN,
        **clip("ViT-L-14", "datacomp_xl_s13b_b90k", "vild", SPLIT_SYNONYMS=False),
        **block(
            "MODEL.SCAN",
            MASK_THRESHOLD=0.55,
            ENSEMBLE_WEIGHT=0.75,
            CONTEXT_BLOCKS=[12, 18, 24],
            SHIFT_BLOCKS=[1, 3, 5, 7, 9],
        ),
    },
}
