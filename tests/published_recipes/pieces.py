"""Pieces that published settings are made of: schedules, augmentations, CLIPs, and what several systems share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
