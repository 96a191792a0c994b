"""What a reference case makes of our configs: a full-size case nothing that its authors' table depends on, so that a setting
which our yaml has wrong is not put right by the case that should notice it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from conformance import settings
from conformance.case import Case
from conformance.running import runners, system_of
from twostage.config import load_config

CASES = Path(__file__).with_name("cases")
REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
# Weights come from the seed, so that no tag tells CLIP's activation; how much is computed at a time is not what.
ALWAYS = (
    "MODEL.CLIP.QUICK_GELU",
    "MODEL.*PRETRAINED",
    "MODEL.MASK_ADAPTER.QUERY_CHUNK",
    "MODEL.ODISE.DIFFUSION.RECOMPUTE",
)
_NARROW = ("MODEL.CLIP.NAME", "MODEL.ODISE.CROP_SIZE", "MODEL.ODISE.DIFFUSION.*_CHANNELS")
_SMALL = ("MODEL.ERRSEG.*RESOLUTION", "MODEL.ERRSEG.*SLOTS", "MODEL.ERRSEG.SIZE_DIVISIBILITY", "MODEL.ERRSEG.*DROP*")
_WINDOWS = ("TEST.SLIDING.*", "MODEL.TALK2DINO.WINDOW_SIDE")
# Case -> keys that it changes, beside `ALWAYS`.
CHANGES = {
    # One published key is both of ours: it pools by 2 in training, by 1 in evaluation. Plain cases don't slide.
    "catseg/*": ("MODEL.CATSEG.*POOLING", "TEST.SLIDING.ENABLED"),
    "pcaseg/*": ("MODEL.CATSEG.*POOLING", "TEST.SLIDING.ENABLED"),
    "sed/*-cer*": ("MODEL.SED.TRAIN_POOLING", "TEST.EARLY_REJECTION.*"),
    # The fast path is off, and its number of classes with it.
    "sed/public-small": ("MODEL.SED.TRAIN_POOLING", "TEST.EARLY_REJECTION.TOP_K"),
    "sed/public-train": ("MODEL.SED.TEST_POOLING",),
    "sed/public-full-ade150": ("MODEL.SED.TRAIN_POOLING",),
    # Nothing random; its full-size case changes nothing else.
    "errseg/public-b-ade150": ("MODEL.ERRSEG.*DROP*",),
    "errseg/*": _SMALL,
    "fcclip/*-small": ("MODEL.CLIP.NAME", "MODEL.MASK2FORMER.RESIZE_SCORES"),
    "maftp/public-l-panoptic-small": ("TEST.PANOPTIC_*",),
    "mask2former/*-small": ("MODEL.MASK2FORMER.NUM_CLASSES",),
    "mask2former/public-r50-classagnostic": ("MODEL.MASK2FORMER.NUM_CLASSES",),
    "mask2former/public-r50-train": ("MODEL.MASK2FORMER.NUM_CLASSES",),
    "maskadapter/public-*-l-small": ("TEST.PANOPTIC_OVERLAP",),
    # The warm-up makes no masks, so that their threshold does nothing.
    "maskadapter/public-train-*": ("MODEL.MASK_ADAPTER.PAIR_IOU", "MODEL.MASK_ADAPTER.MASK_THRESHOLD"),
    "odise/public-full-label": (),
    "odise/*": _NARROW,
    "ovseg/public-train-*": ("MODEL.MASKFORMER.DROPOUT", "MODEL.SWIN.DROP_PATH_RATE"),
    "proxy/public-proxyclip-dino-voc21": ("MODEL.TRAINING_FREE.PROBABILITY_THRESHOLD",),
    "proxy/public-proxyclip-*": _WINDOWS,
    # Stored masks in place of a network's.
    "proxy/public-corrclip-*": (*_WINDOWS, "MODEL.CLIP.NAME", "MODEL.MASKS.SOURCE"),
    "proxy/public-dinoiser-*": (*_WINDOWS, "MODEL.CLIP_DINOISER.*"),
    "proxy/public-talk2dino-*": (*_WINDOWS, "MODEL.TALK2DINO.*"),
    "scan/public-vitb-small": ("MODEL.SCAN.ENSEMBLE_WEIGHT", "MODEL.SCAN.SHIFT_RATIO"),
    "scan/public-vitb-train": ("MODEL.SWIN.DROP_PATH_RATE", "MODEL.SCAN.REFINE_DROPOUT"),
    # Seeded similarities are so small that the published threshold would make all of it background.
    "segclip/*": ("MODEL.SEGCLIP.BACKGROUND_THRESHOLD", "MODEL.SEGCLIP.MIX_BATCH", "TEST.SLIDING.ENABLED"),
    "trainingfree/public-*-voc21": (*_WINDOWS, "MODEL.TRAINING_FREE.*"),
    "trainingfree/public-sclip-pamr": ("MODEL.TRAINING_FREE.PAMR_STEPS",),
}


class _Asked(BaseException):
    """Where a runner has said which config it wants."""


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def same(a: Any, b: Any) -> bool:
    """Equal; numbers to the seven digits that a case may write down."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return math.isclose(a, b, rel_tol=1e-7) if isinstance(a, float) and isinstance(b, float) else a == b


def changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, Any]]:
    """Keys in which the config that a case is run with differs from our yaml alone: ours, the case's."""
    asked: list[tuple[str, list[str]]] = []

    def ask(name: str, opts: list[str]) -> None:
        asked.append((name, opts))
        raise _Asked

    monkeypatch.setattr(settings, "load_config", ask)
    case = Case.read(path)
    try:
        runners()[system_of(case)](case)
    except _Asked:
        (name, opts) = asked[0]
        alone, run = flat(load_config(name)), flat(load_config(name, opts))
        ignored = (*settings.SEEDED[::2], *ALWAYS)
        return {
            key: (alone[key], value)
            for key, value in run.items()
            if not same(alone[key], value) and not any(fnmatch(key, pattern) for pattern in ignored)
        }
    return {}


def reference_cases() -> list[Path]:
    """Those beside the repository, and those of it that are not there."""
    beside = sorted(REFERENCE.glob("*/public-*.json"))
    named = {f"{path.parent.name}/{path.name}" for path in beside}
    ours = [path for path in sorted(CASES.glob("*/*.json")) if path.stem.startswith(("public-", "own-"))]
    return [*beside, *(path for path in ours if f"{path.parent.name}/{path.name}" not in named)]


def allowed(name: str) -> tuple[str, ...]:
    """The first entry of `CHANGES` that fits."""
    return next((keys for pattern, keys in CHANGES.items() if fnmatch(name, pattern)), ())


# A unit of a part asks for no config and is over in a second or two; those that run networks are left to the tool.
_HEAVY = (
    "odise/public-unit-maskclip",
    "odise/public-unit-captioner",
    "ovseg/public-unit-*",
    "proxy/*-unit-*",
    "*/public-unit-head*",
)


def test_a_case_runs_our_config_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for path in reference_cases():
        name = f"{path.parent.name}/{path.stem}"
        if any(fnmatch(name, pattern) for pattern in _HEAVY):
            continue
        with monkeypatch.context() as patch:
            keys = changed(path, patch)
        if wrong := {key: pair for key, pair in keys.items() if not any(fnmatch(key, p) for p in allowed(name))}:
            found[name] = wrong
    assert not found, "our yaml, the case"


def test_a_wrong_yaml_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """FC-CLIP's full-size case states the weights of its ensemble, so that it would match whatever our yaml said."""
    path, load = CASES / "fcclip" / "public-convnextl-full.json", load_config

    def wrong(name: str, opts: Any = ()) -> Any:
        return load(name, ["MODEL.FCCLIP.SEEN_WEIGHT", "0.5", "MODEL.FCCLIP.UNSEEN_WEIGHT", "0.9", *opts])

    monkeypatch.setitem(globals(), "load_config", wrong)
    weights = {"MODEL.FCCLIP.SEEN_WEIGHT": (0.5, 0.4), "MODEL.FCCLIP.UNSEEN_WEIGHT": (0.9, 0.8)}
    assert changed(path, monkeypatch) == weights
