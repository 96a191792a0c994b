"""What moves a figure besides the network: how pictures are resized and cut, whose names, what becomes background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import PIL
import yaml

from twostage.data.catalogue import DatasetInfo, benchmarks
from twostage.evaluation.dataset import EvaluatedDataset

# Systems whose scores have rules of their own: architecture -> block of its keys, and which of them.
_RULES = {
    "Talk2Dino": ("TALK2DINO", ("BACKGROUND_SCORE", "CLEANING", "PAMR_STEPS")),
    "ClipDinoiser": ("CLIP_DINOISER", ("BACKGROUND", "DELTA")),
    "Trident": ("TRIDENT", ("REFINE", "LEAST_PROBABILITY")),
    "ClipDiy": ("CLIP_DIY", ("CROPS", "OBJECTNESS")),
    "GroupViT": ("GROUPVIT", ("BACKGROUND_THRESHOLD",)),
    "SegCLIP": ("SEGCLIP", ("BACKGROUND_THRESHOLD",)),
}
# Keys whose own name is a setting of all systems.
_CALLED = {"BACKGROUND": "background_rule"}
_TRAINING_FREE = ("TrainingFree", "ProxyClip", "CorrClip", "Trident")
# Which of all systems read a second frozen network, and which give a first class called "background" no words.
_BORROWING = ("ProxyClip", "CorrClip", "Trident", "Talk2Dino", "ClipDiy")
_WORDLESS = ("GroupViT", "SegCLIP")


def protocol_of(config_text: str, dataset: EvaluatedDataset) -> dict[str, Any]:
    """The settings of one evaluation, in the words of a paper's table; {} without the config of a system.

    Args:
        config_text: the config as yaml.
        dataset: as it was evaluated, with the names that were asked for.
    """
    if not config_text:
        return {}
    cfg = yaml.safe_load(config_text)
    if "MODEL" not in cfg:
        return {}
    model, sliding = cfg["MODEL"], cfg["TEST"]["SLIDING"]
    architecture = model["META_ARCHITECTURE"]
    settings = {
        "resize": _resize(cfg["INPUT"]),
        "window": sliding["TILE"] if sliding["ENABLED"] else "whole picture",
        "stride": sliding["STRIDE"] if sliding["ENABLED"] else None,
        "names": names_of(dataset.info),
        "templates": model["CLIP"]["TEMPLATES"],
        "background": _background(model, architecture, dataset.prompt_names) if dataset.background_class == 0 else None,
        "precision": _precision(cfg),
        "foundation": model["FOUNDATION"]["NAME"] if architecture in _BORROWING else None,
        "masks": None if model["MASKS"]["SOURCE"] == "own" else model["MASKS"]["SOURCE"],
    }
    if architecture == "Trident" and model["TRIDENT"]["AGGREGATE"]:
        settings["SAM's picture"] = f"opencv {cv2.__version__}, then pillow {PIL.__version__}"
    if architecture in _TRAINING_FREE:
        keys = model["TRAINING_FREE"]
        settings |= {name.lower(): keys[name] for name in ("PROBABILITY_THRESHOLD", "AREA_THRESHOLD", "PAMR_STEPS")}
    block, names = _RULES.get(architecture, ("", ()))
    return settings | {_CALLED.get(name, name.lower()): model[block][name] for name in names}


def names_of(info: DatasetInfo) -> str:
    """Whose class names were asked for: the variant of a benchmark's list, or the names that a dataset brings itself.

    >>> names_of(benchmarks()["ade20k_150"].infos()[0])
    'catseg'
    """
    whose = info.names_variant if info.benchmark in benchmarks() else "the dataset's own"
    return f"{whose}, and {info.distractors} that no label holds" if info.distractors else whose


def _resize(keys: Mapping[str, Any]) -> str:
    """How pictures come to the size of the network, and by which library."""
    if keys["RESIZE_TEST"] == "stretch":
        height, width = keys["SIZE_TEST"]
        return f"pillow {PIL.__version__}, stretched to {height} x {width}"
    library = f"opencv {cv2.__version__}" if keys["RESIZE_TEST"] == "opencv" else f"pillow {PIL.__version__}"
    return f"{library}, short side {keys['MIN_SIZE_TEST']}, long side at most {keys['MAX_SIZE_TEST']}"


def _precision(cfg: Mapping[str, Any]) -> str:
    """Of the system; of matrix products as well, where torch was told to take less for them."""
    products = cfg["FLOAT32_PRECISION"]
    return cfg["MODEL"]["PRECISION"] + (f", products {products}" if products else "")


def _background(model: Mapping[str, Any], architecture: str, prompt_names: Sequence[str]) -> str:
    """The words that stand for the first class, which is the background."""
    if architecture in _WORDLESS or (architecture == "Talk2Dino" and model["TALK2DINO"]["BACKGROUND_SCORE"]):
        return "no words"
    words = model["TRAINING_FREE"]["BACKGROUND_WORDS"] if architecture in _TRAINING_FREE else ()
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
