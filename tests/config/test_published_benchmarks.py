"""Training-free configs hold what their authors publish for each test set: whose names, what sizes, windows, thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from twostage.config import load_config
from twostage.config.loading import get_key

CONFIGS = Path(__file__).parents[2] / "configs" / "training_free"
SETS = {
    "voc21": "pascal_voc_21_val",
    "context60": "pascal_context_60_val",
    "coco_object": "coco_object_val",
    "voc20": "pascal_voc_20_val",
    "cityscapes": "cityscapes_val",
    "context59": "pascal_context_59_val",
    "ade20k": "ade20k_150_val",
    "coco_stuff": "coco_stuff_val",
}
KEYS = {
    "names": "DATASETS.CLASS_NAMES",
    "short": "INPUT.MIN_SIZE_TEST",
    "long": "INPUT.MAX_SIZE_TEST",
    "slide": "TEST.SLIDING.ENABLED",
    "tile": "TEST.SLIDING.TILE",
    "stride": "TEST.SLIDING.STRIDE",
    "scale": "MODEL.TRAINING_FREE.LOGIT_SCALE",
    "threshold": "MODEL.TRAINING_FREE.PROBABILITY_THRESHOLD",
    "area": "MODEL.TRAINING_FREE.AREA_THRESHOLD",
    "pamr": "MODEL.TRAINING_FREE.PAMR_STEPS",
    "cosine": "MODEL.TRIDENT.COSINE_FACTOR",
    "negative": "MODEL.TRIDENT.NEGATIVE_THRESHOLDS",
    "coarse": "MODEL.TRIDENT.LEAST_PROBABILITY",
    "halves": "MODEL.TRIDENT.IN_HALVES",
    "clean": "MODEL.TALK2DINO.CLEANING",
    "background": "MODEL.TALK2DINO.BACKGROUND_SCORE",
    "refined": "MODEL.TALK2DINO.PAMR_STEPS",
    "found": "MODEL.CLIP_DINOISER.BACKGROUND",
}
Settings = dict[str, Any]


def harness(names: str, **more: Any) -> Settings:
    """The default of SCLIP's harness and of those made from it."""
    usual = {
        "short": 336,
        "slide": True,
        "tile": 224,
        "stride": 112,
        "scale": 40.0,
        "threshold": 0.0,
        "area": 0.0,
        "pamr": 0,
    }
    return {"names": names, **usual, **more}


# System -> what holds for all of its test sets, and what each says otherwise (the configs of the authors' repositories).
SCLIP = {
    "voc21": {"scale": 65.0, "threshold": 0.1, "area": 0.1},
    "context60": {"scale": 50.0, "threshold": 0.1},
    "coco_object": {"scale": 50.0, "threshold": 0.1},
    "cityscapes": {"short": 560},
    "coco_stuff": {"short": 448},
}
PROXYCLIP = {
    "voc21": {"threshold": 0.2},
    "context60": {"threshold": 0.15},
    "coco_object": {"threshold": 0.25},
    "cityscapes": {"short": 448, "tile": 224},
    "ade20k": {"short": 448},
}
PUBLISHED: dict[str, tuple[Settings, dict[str, Settings]]] = {
    "clip": (harness("sclip"), SCLIP),
    "sclip": (harness("sclip"), SCLIP),
    "naclip": (
        harness("naclip", pamr=10),
        {
            "voc21": {"threshold": 0.1, "slide": False},
            "context60": {"threshold": 0.1},
            "coco_object": {"threshold": 0.1},
            "voc20": {"slide": False},
            "cityscapes": {"short": 560},
        },
    ),
    "clearclip": (
        harness("clearclip", short=448, tile=448, stride=224, scale=50.0),
        {
            "voc21": {"threshold": 0.5},
            "context60": {"threshold": 0.15},
            "coco_object": {"threshold": 0.4},
            "cityscapes": {"tile": 224},
        },
    ),
    "proxyclip_dino": (harness("proxyclip", tile=336), PROXYCLIP),
    "proxyclip_dinov2": (harness("proxyclip", tile=336), PROXYCLIP),
    "corrclip": (harness("corrclip", tile=336), PROXYCLIP),
    "maskclip": (
        {"names": "maskclip", "short": 512, "slide": False, "threshold": 0.0},
        {"cityscapes": {"long": 1024}, "context59": {"short": 520, "long": 520}},
    ),
    "trident": (
        harness("trident", short=448, tile=336, stride=224, cosine=1.2, negative=True, halves=False),
        {
            "voc21": {"threshold": 0.2, "coarse": 0.2},
            "context60": {"short": 576, "threshold": 0.15, "coarse": 0.15},
            "coco_object": {"threshold": 0.25, "coarse": 0.25},
            "voc20": {"short": 336, "stride": 112, "cosine": 0.0, "coarse": 0.2},
            "cityscapes": {"short": 688, "cosine": 3.0, "negative": False, "coarse": 0.1, "halves": True},
            "context59": {"short": 576, "coarse": 0.15},
            "ade20k": {"short": 576, "negative": False, "coarse": 0.05},
            "coco_stuff": {"coarse": 0.05},
        },
    ),
    "clip_dinoiser": (
        {"short": 448, "slide": True, "tile": 448, "stride": 224, "found": False},
        {"voc21": {"found": True}, "coco_object": {"found": True}},
    ),
    "talk2dino": (
        {"short": 448, "slide": True, "tile": 448, "stride": 224, "refined": 10, "background": 0.0, "clean": 0.0},
        {
            "voc21": {"background": 0.55, "clean": 0.2},
            "context60": {"background": 0.55},
            "coco_object": {"background": 0.55, "clean": 0.2},
        },
    ),
}


# MaskCLIP takes whole pictures, and has no test set with background.
FIVE = ("voc20", "cityscapes", "context59", "ade20k", "coco_stuff")
CONFIGURED = [(system, name) for system in PUBLISHED for name in (FIVE if system == "maskclip" else SETS)]


@pytest.mark.parametrize(("system", "benchmark"), CONFIGURED)
def test_settings_are_the_published_ones(system: str, benchmark: str) -> None:
    cfg = load_config(str(CONFIGS / f"{system}_{benchmark}.yaml"))
    usual, others = PUBLISHED[system]
    published = {"long": 2048, **usual, **others.get(benchmark, {})}
    assert {name: get_key(cfg, KEYS[name]) for name in published} == published
    assert list(cfg.DATASETS.TEST) == [SETS[benchmark]]
    assert cfg.INPUT.RESIZE_TEST == "opencv"


def test_every_such_config_is_checked() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {f"{system}_{name}" for system, name in CONFIGURED}
