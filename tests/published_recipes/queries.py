"""Published settings of Mask2Former and of the systems that stand on it (FC-CLIP, MAFT+, Mask-Adapter, ODISE)."""

from __future__ import annotations

from published_recipes.pieces import (
    ADE_PANOPTIC,
    BASE,
    CLIP,
    IMAGENET,
    LARGE,
    MASK_LOSS,
    PANOPTIC,
    STUFF_SYNONYMS,
    Settings,
    block,
    clip,
    crops,
    data,
    every,
    jitter,
    poly,
    solver,
    statistics,
    steps,
)

# FC-CLIP: facts 3, 5, 6.
FCCLIP = {
    **data(PANOPTIC, ADE_PANOPTIC, size=(800, 1333)),
    **jitter(1024),
    **solver(1e-4, 16, 368750, 0.05, amp=True),
    **steps(327778, 355092),
    **statistics(CLIP),
    **MASK_LOSS,
    **clip(*LARGE, "vild"),
    **block("MODEL.MASK2FORMER", NUM_QUERIES=250, RESIZE_SCORES=False, SIZE_DIVISIBILITY=32),
    **block("MODEL.FCCLIP", SEEN_WEIGHT=0.4, UNSEEN_WEIGHT=0.8, ENSEMBLE_ON_VALID_MASK=False),
    **block("TEST", PANOPTIC_SCORE=0.0, PANOPTIC_OVERLAP=0.8, DETECTIONS_PER_IMAGE=100),
}
# MAFT+: facts, table of variants, 4 and 6.
MAFTP = {
    **data(STUFF_SYNONYMS, "openvocab_ade20k_full_sem_seg_val", ADE_PANOPTIC, size=(800, 1333)),
    **block("INPUT", SCALE_JITTER=(), MIN_SIZE_TRAIN=(800,), MAX_SIZE_TRAIN=1333, COLOR_AUG_SSD=False),
    **solver(1e-4, 8, 60000, 2e-5, amp=True),
    **poly(),
    **statistics(CLIP),
    **MASK_LOSS,
    **clip(*BASE, "vild"),
    **block("MODEL.MASK2FORMER", NUM_QUERIES=100, RESIZE_SCORES=True),
    **block("TEST", PANOPTIC_SCORE=0.2, PANOPTIC_OVERLAP=0.7),
    **block("MODEL.MAFTP", MASK_AWARE_WEIGHT=1.0, COMPENSATION_WEIGHT=0.1, TRANSFER="semantic"),
    "INPUT.CROP.ENABLED": False,
    "SOLVER.CLIP_MULTIPLIER": 0.1,
    "SEED": 123,
}
MAFTP_L = {**MAFTP, **clip(*LARGE, "vild"), "SOLVER.MAX_ITER": 55000}
# Mask-Adapter: facts, table of variants, 4 and 5.
WARMUP = {**jitter(768), **solver(1e-4, 8, 295717, 0.05, 1.0, amp=True), **steps(260231, 283888)}
WARMUP |= block("MODEL.MASK_ADAPTER", PHASE="warmup", TRUTHS=32)
ADAPTED = {**jitter(1024), "INPUT.MIN_SIZE_TEST": 896, "INPUT.MAX_SIZE_TEST": 896, "TEST.PANOPTIC_SCORE": 0.0}
ADAPTED |= block("MODEL.MASK_ADAPTER", MAPS=16, WIDTH=768, PHASE="mixed", TRUTHS=16, PAIRS=8, PAIR_IOU=0.7)
ADAPTED_FCCLIP = {
    **FCCLIP,
    **ADAPTED,
    **solver(1e-4, 24, 49286, 0.05, 1.0, amp=True),
    **steps(43371, 47314, 0),
    **block("MODEL.FCCLIP", SEEN_WEIGHT=0.7, UNSEEN_WEIGHT=0.9),
    **block("MODEL.MASK_ADAPTER", MASK_THRESHOLD=0.5, PAIR_PROBABILITY=0.4),
}
ADAPTED_MAFTP = {
    **MAFTP,
    **ADAPTED,
    **solver(1e-4, 24, 49286, 2e-5, 1.0, amp=True),
    **poly(10),
    **block("MODEL.FCCLIP", SEEN_WEIGHT=0.7, UNSEEN_WEIGHT=1.0),
    **block("MODEL.MASK_ADAPTER", MASK_THRESHOLD=0.45, PAIR_PROBABILITY=0.5),
}
ADAPTED_MAFTP_L = {
    **ADAPTED_MAFTP,
    **clip(*LARGE, "vild"),
    "MODEL.MASK2FORMER.RESIZE_SCORES": False,
    "MODEL.MAFTP.TRANSFER": "panoptic",
    "MODEL.FCCLIP.SEEN_WEIGHT": 0.8,
    "MODEL.MASK_ADAPTER.MASK_THRESHOLD": 0.4,
}
# ODISE: facts 3 to 5.
ODISE = {
    **data(PANOPTIC, ADE_PANOPTIC, size=(1024, 2560)),
    **jitter(1024),
    **solver(1e-4, 64, 92188, 0.05, amp=True),
    **steps(81945, 88774, 250, 0.067),
    **block("SOLVER", WEIGHT_DECAY_BIAS=0.0, WEIGHT_DECAY_EMBED=0.05),
    **MASK_LOSS,
    **clip("ViT-L-14-336", "openai", "single"),
    **block("MODEL.ODISE", SUPERVISION="label", SEEN_WEIGHT=0.3, UNSEEN_WEIGHT=0.7, CROP_SIZE=512),
    **block("TEST", PANOPTIC_SCORE=0.0, PANOPTIC_OVERLAP=0.8),
    "DATASETS.CLASS_NAMES": "odise",
    "MODEL.MASK2FORMER.NUM_QUERIES": 100,
    "SEED": 42,
}
# Mask2Former: facts 5 and 6.
MASK2FORMER = {
    **data("ade20k_sem_seg_train", "ade20k_sem_seg_val", size=(512, 2048)),
    **crops(512, every(51.2, 5, 21), 2048),
    **solver(1e-4, 16, 160000, 0.05, amp=True),
    **poly(),
    **statistics(IMAGENET),
    **MASK_LOSS,
    **block("MODEL.MASK2FORMER", NUM_QUERIES=100, NUM_CLASSES=150, RESIZE_SCORES=True, DECODER_LAYERS=9),
    **block("TEST", PANOPTIC_SCORE=0.8, PANOPTIC_OVERLAP=0.8),
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "MODEL.BACKBONE.FREEZE_AT": 0,
}
MASK2FORMER_640 = {
    **MASK2FORMER,
    **data("ade20k_sem_seg_train", "ade20k_sem_seg_val", size=(640, 2560)),
    **crops(640, every(64, 5, 21), 2560),
    "MODEL.SWIN.WINDOW_SIZE": 12,
}
MASK2FORMER_COCO = {
    **MASK2FORMER,
    **data("coco_panoptic_train", "coco_panoptic_val", size=(800, 1333)),
    **jitter(1024),
    **solver(1e-4, 16, 368750, 0.05, amp=True),
    **steps(327778, 355092),
    "MODEL.MASK2FORMER.NUM_CLASSES": 133,
    "MODEL.MASK2FORMER.RESIZE_SCORES": False,
    "TEST.PANOPTIC": True,
}

RECIPES: dict[str, Settings] = {
    "fcclip_convnextl": FCCLIP,
    "fcclip_r50": {**FCCLIP, **clip("RN50", "openai", "vild"), "MODEL.FCCLIP.ENSEMBLE_ON_VALID_MASK": True},
    "maftp_convnextb": MAFTP,
    "maftp_convnextl": MAFTP_L,
    "maftp_convnextl_panoptic": {
        **MAFTP_L,
        **data(PANOPTIC, ADE_PANOPTIC, size=(800, 1333)),
        **jitter(1024),
        "MODEL.MAFTP.TRANSFER": "panoptic",
        "MODEL.MASK2FORMER.RESIZE_SCORES": False,
        "TEST.PANOPTIC": True,
    },
    "mask_adapter_fcclip_convnextl": ADAPTED_FCCLIP,
    "mask_adapter_maftp_convnextb": ADAPTED_MAFTP,
    "mask_adapter_maftp_convnextl": ADAPTED_MAFTP_L,
    "mask_adapter_warmup_fcclip_convnextl": {**ADAPTED_FCCLIP, **WARMUP},
    "mask_adapter_warmup_maftp_convnextb": {**ADAPTED_MAFTP, **WARMUP, "MODEL.MAFTP.TRANSFER": "panoptic"},
    "mask_adapter_warmup_maftp_convnextl": {**ADAPTED_MAFTP_L, **WARMUP},
    "odise_label": ODISE,
    "odise_caption": {
        **ODISE,
        **block("MODEL.ODISE", SUPERVISION="caption", SEEN_WEIGHT=0.35, UNSEEN_WEIGHT=0.65),
        "DATASETS.CAPTIONS": "coco_2017_train_captions",
    },
    "mask2former_r50": MASK2FORMER,
    "mask2former_r101": {**MASK2FORMER, "MODEL.RESNETS.DEPTH": 101, "MODEL.RESNETS.NORM": "SyncBN"},
    "mask2former_swint": {**MASK2FORMER, "MODEL.SWIN.WINDOW_SIZE": 7},
    "mask2former_swinb": {**MASK2FORMER_640, "MODEL.SWIN.EMBED_DIM": 128},
    "mask2former_swinl": {**MASK2FORMER_640, "MODEL.SWIN.EMBED_DIM": 192},
    "mask2former_r50_coco": {**MASK2FORMER_COCO, "MODEL.RESNETS.DEPTH": 50},
    "mask2former_swinb_coco": {**MASK2FORMER_COCO, "MODEL.SWIN.EMBED_DIM": 128, "MODEL.SWIN.WINDOW_SIZE": 12},
}
