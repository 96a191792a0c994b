"""Captions of the pictures of `toybox_train`, as COCO has them for its own: what a scene was planned to show, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from twostage.data.toybox.captioned import NAMES, sentence
from twostage.data.toybox.dataset import NUM_TRAIN, SEED, Plan, plan_scenes

# Captions of a picture: of everything, and of a part of it.
_CAPTIONS = 3
_MEDIUM = 1


def toybox_train_captions(root: Path, *, seed: int = SEED) -> list[dict[str, Any]]:
    """Pairs of `file_name` and `caption`, three for each picture, in the order of the pictures."""
    pairs = []
    for index, plan in enumerate(plan_scenes(seed, "train", NUM_TRAIN)):
        name = str(root / "toybox" / "images" / "train" / f"{plan.name}.jpg")
        rng = np.random.default_rng([seed, index, 2])
        pairs += [{"file_name": name, "caption": text} for text in _sentences(rng, plan)]
    return pairs


def _sentences(rng: np.random.Generator, plan: Plan) -> list[str]:
    shown = [NAMES.index(name) for name in (*(thing.name for thing in plan.things), *plan.stuff)]
    texts = []
    for caption in range(_CAPTIONS):
        kept = len(shown) if caption == 0 else int(rng.integers(1, len(shown) + 1))
        chosen = sorted(rng.permutation(len(shown))[:kept])
        texts.append(sentence(rng, tuple(shown[i] for i in chosen), _MEDIUM))
    return texts
