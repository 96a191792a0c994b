"""What moves a figure besides the network: how pictures are resized and cut, whose names, what becomes background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import PIL
import yaml

# Systems whose scores have rules of their own, and the block of their keys.
_RULES = {
    "TALK2DINO": ("BACKGROUND_SCORE", "CLEANING", "PAMR_STEPS"),
    "CLIP_DINOISER": ("BACKGROUND", "DELTA"),
    "TRIDENT": ("REFINE", "LEAST_PROBABILITY"),
}
_ARCHITECTURES = {"TALK2DINO": "Talk2Dino", "CLIP_DINOISER": "ClipDinoiser", "TRIDENT": "Trident"}
_TRAINING_FREE = ("TrainingFree", "ProxyClip", "CorrClip", "Trident")


def protocol_of(config_text: str, prompt_names: Sequence[str]) -> dict[str, Any]:
    """The settings of one evaluation, in the words of a paper's table; {} without the config of a system.

    Args:
        config_text: the config as yaml.
        prompt_names: the classes as they were asked for, synonyms joined by commas.
    """
    if not config_text:
        return {}
    cfg = yaml.safe_load(config_text)
    if "MODEL" not in cfg:
        return {}
    model, sliding = cfg["MODEL"], cfg["TEST"]["SLIDING"]
    architecture = model["META_ARCHITECTURE"]
    library = cfg["INPUT"]["RESIZE_TEST"]
    settings = {
        "resize": f"{library} {_version(library)}, short side {cfg['INPUT']['MIN_SIZE_TEST']}, "
        f"long side at most {cfg['INPUT']['MAX_SIZE_TEST']}",
        "window": sliding["TILE"] if sliding["ENABLED"] else None,
        "stride": sliding["STRIDE"] if sliding["ENABLED"] else None,
        "names": cfg["DATASETS"]["CLASS_NAMES"],
        "templates": model["CLIP"]["TEMPLATES"],
        "background": _background(model, architecture, prompt_names),
        "precision": cfg["FLOAT32_PRECISION"] or "float32",
    }
    if architecture in _TRAINING_FREE:
        keys = model["TRAINING_FREE"]
        settings |= {name.lower(): keys[name] for name in ("PROBABILITY_THRESHOLD", "AREA_THRESHOLD", "PAMR_STEPS")}
    for block, names in _RULES.items():
        if architecture == _ARCHITECTURES[block]:
            settings |= {name.lower(): model[block][name] for name in names}
    return settings


def _version(library: str) -> str:
    return cv2.__version__ if library == "opencv" else PIL.__version__


def _background(model: Mapping[str, Any], architecture: str, prompt_names: Sequence[str]) -> str | None:
    """The words that stand for the first class where that is the background."""
    if architecture not in _TRAINING_FREE or not model["TRAINING_FREE"]["PROBABILITY_THRESHOLD"]:
        return None
    words = model["TRAINING_FREE"]["BACKGROUND_WORDS"]
    return ", ".join(words) if words else prompt_names[0]


def protocol_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row per test set, a column per setting that one of them has."""
    heads = list(
        dict.fromkeys(key for settings in rows.values() for key, value in settings.items() if value is not None)
    )
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for name, settings in rows.items():
        cells = ["-" if settings.get(key) is None else str(settings[key]) for key in heads]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
