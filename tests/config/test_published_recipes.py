"""Published configs hold the published settings, written down here once more from the facts of each system.

A reference case can't tell a wrong config where it states the setting itself, nor where nothing that it compares depends on
it, as on training sets, schedules and sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from twostage.config import load_config
from twostage.config.loading import get_key

CONFIGS = Path(__file__).parents[2] / "configs"
Settings = Mapping[str, Any]

STUFF, BASE_STUFF = "coco_2017_train_stuff_sem_seg", "coco_2017_train_stuff_base_sem_seg"
PANOPTIC, STUFF_SYNONYMS = "openvocab_coco_2017_train_panoptic_with_sem_seg", "openvocab_coco_2017_train_stuff_sem_seg"
ADE_PANOPTIC = "openvocab_ade20k_panoptic_val"
IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
CLIP = ([122.7709383, 116.7460125, 104.09373615], [68.5005327, 66.6321579, 70.32316305])


def solver(
    rate: float, batch: int, iterations: int, decay: float, clip: float | None = 0.01, *, amp: bool
) -> dict[str, Any]:
    """AdamW without decay of norms, gradients clipped as one vector, or not (`clip` None)."""
    return {
        "SOLVER.OPTIMIZER": "ADAMW",
        "SOLVER.BASE_LR": rate,
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.WEIGHT_DECAY": decay,
        "SOLVER.WEIGHT_DECAY_NORM": 0.0,
        "SOLVER.CLIP_GRADIENTS.ENABLED": clip is not None,
        **(
            {}
            if clip is None
            else {"SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": clip}
        ),
        "SOLVER.AMP.ENABLED": amp,
    }


def poly(warmup: int = 0, factor: float = 1.0) -> Settings:
    return {"SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR", "SOLVER.POLY_LR_POWER": 0.9, **warm(warmup, factor)}


def cosine(warmup: int = 0, factor: float = 1.0) -> Settings:
    return {"SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR", **warm(warmup, factor)}


def steps(first: int, second: int, warmup: int = 10, factor: float = 1.0) -> Settings:
    return {
        "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "SOLVER.STEPS": (first, second),
        "SOLVER.GAMMA": 0.1,
        **warm(warmup, factor),
    }


def warm(iterations: int, factor: float) -> Settings:
    # Without a warm-up its factor has no effect.
    return {"SOLVER.WARMUP_ITERS": iterations, **({"SOLVER.WARMUP_FACTOR": factor} if iterations else {})}


def crops(side: int, short: tuple[int, ...], longest: int, *, colour: bool = True) -> Settings:
    """A short edge drawn from `short`, then a random crop."""
    return {
        "INPUT.SCALE_JITTER": (),
        "INPUT.MIN_SIZE_TRAIN": short,
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
        "INPUT.MAX_SIZE_TRAIN": longest,
        **cropped(side, colour),
    }


def jitter(side: int) -> Settings:
    """Large-scale jitter, 0.1 to 2 times the crop, without colours."""
    return {"INPUT.SCALE_JITTER": (0.1, 2.0), **cropped(side, False)}


def cropped(side: int, colour: bool) -> Settings:
    return {
        "INPUT.CROP.ENABLED": True,
        "INPUT.CROP.TYPE": "absolute",
        "INPUT.CROP.SIZE": (side, side),
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 1.0,
        "INPUT.PAD_TO": side,
        "INPUT.PAD_VALUE": 128,
        "INPUT.COLOR_AUG_SSD": colour,
        "INPUT.RANDOM_FLIP": "horizontal",
    }


def data(train: str, *test: str, size: tuple[int, int]) -> Settings:
    """`size`: short edge and longest edge of test pictures."""
    return {
        "DATASETS.TRAIN": (train,),
        "DATASETS.TEST": test,
        "INPUT.MIN_SIZE_TEST": size[0],
        "INPUT.MAX_SIZE_TEST": size[1],
        "INPUT.FORMAT": "RGB",
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    }


def statistics(pair: tuple[list[float], list[float]]) -> Settings:
    return {"MODEL.PIXEL_MEAN": pair[0], "MODEL.PIXEL_STD": pair[1]}


def clip(name: str, weights: str, templates: str, **more: Any) -> Settings:
    keys = {"NAME": name, "PRETRAINED": weights, "TEMPLATES": templates, **more}
    return {f"MODEL.CLIP.{key}": value for key, value in keys.items()}


def block(prefix: str, **keys: Any) -> Settings:
    return {f"{prefix}.{key}": value for key, value in keys.items()}


def every(step: float, first: int, last: int) -> tuple[int, ...]:
    """Short edges as the published configs write them: `int(x * 0.1 * side) for x in range(...)`."""
    return tuple(int(x * step) for x in range(first, last))


LARGE = ("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup")
BASE = ("convnext_base_w_320", "laion_aesthetic_s13b_b82k_augreg")
MASK_LOSS = block(
    "MODEL.MASK_LOSS", CLASS_WEIGHT=2.0, MASK_WEIGHT=5.0, DICE_WEIGHT=5.0, NO_OBJECT_WEIGHT=0.1, NUM_POINTS=12544
)
FIRST_SYNONYM: dict[str, Any] = {"SPLIT_SYNONYMS": True, "FIRST_SYNONYM": True}

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
# These train as well: SegCLIP learns from captions, the others take their masks from elsewhere.
ELSEWHERE = {"segclip_vitb", "ovseg_sam", "ovseg_superpixels"}


def plain(value: Any) -> Any:
    """Lists as tuples."""
    return tuple(value) if isinstance(value, list | tuple) else value


def test_every_config_that_trains_has_its_recipe_here() -> None:
    trained = {path.stem for path in CONFIGS.glob("*.yaml") if load_config(str(path)).DATASETS.TRAIN}
    assert trained == set(RECIPES) | ELSEWHERE


@pytest.mark.parametrize("config", RECIPES)
def test_settings_are_the_published_ones(config: str) -> None:
    cfg = load_config(str(CONFIGS / f"{config}.yaml"))
    differ = {}
    for key, published in RECIPES[config].items():
        ours = get_key(cfg, key)
        if plain(ours) != plain(published):
            differ[key] = (ours, published)
    assert not differ, "ours, published"
