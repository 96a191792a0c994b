"""How far labels of a large picture depend on where its tiles lie: the same pixels labelled with shifted tile borders."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

import numpy as np

from twostage.api import Segmenter, build_from_config
from twostage.config import load_config
from twostage.data.toybox.dataset import SEED, plan_scenes, render
from twostage.data.toybox.words import CLASSES
from twostage.large.tiling import ArraySource, Tiling, label_blocks
from twostage.vocabulary import Vocabulary

# Shares of a tile that neighbours overlap by.
OVERLAPS = (0.0, 1 / 8, 1 / 4, 1 / 2)
# Pixels that placements are moved by, the same for every overlap: by multiples of toybox' patches, which leaves CLIP's
# grid where it was on the picture, and by others.
SHIFTS = {"by whole patches": (0, 16, 32, 48), "by others": (0, 11, 29, 50)}
# Scenes of toybox that the picture is made of, a side; their sides in pixels.
_SCENES, _SIDE = 5, 128
# Pixels off, so that no placement's tiles are the scenes.
_OFF = 37


def run_from_arguments(args: argparse.Namespace) -> None:
    """Print a table of the overlaps: the share of pixels whose label two placements disagree on, mean and worst pair."""
    cfg = load_config(args.config_file, args.opts)
    segmenter = Segmenter(build_from_config(cfg), cfg)
    picture = scene_mosaic()
    print(f"| overlap | {' | '.join(SHIFTS)} |\n|---|{'---:|' * len(SHIFTS)}")
    for overlap in OVERLAPS:
        pixels = round(args.tile * overlap)
        found = [
            disagreements(segmenter, picture, Tiling(args.tile, pixels, 2**30), shifts) for shifts in SHIFTS.values()
        ]
        cells = [f"{100 * np.mean(pairs):.2f} % (to {100 * max(pairs):.2f} %)" for pairs in found]
        print(f"| {overlap:g} | {' | '.join(cells)} |", flush=True)


def scene_mosaic() -> np.ndarray:
    """uint8 RGB `[640, 640, 3]`: scenes of toybox side by side."""
    plans = [plan for plan in plan_scenes(SEED, "open", 200) if (plan.height, plan.width) == (_SIDE, _SIDE)]
    scenes = [scene.image for _, scene in render(plans[: _SCENES**2], SEED, "open")]
    return np.concatenate([np.concatenate(scenes[i::_SCENES], axis=1) for i in range(_SCENES)])


def disagreements(segmenter: Segmenter, picture: np.ndarray, tiling: Tiling, shifts: Sequence[int]) -> list[float]:
    """Per pair of placements the share of pixels with different labels, at least a tile away from the picture's border.

    A placement is moved by cutting rows and columns off the top and the left.
    """
    first = max(2 * tiling.tile, _OFF + max(shifts) + tiling.tile)
    maps: list[np.ndarray] = []
    for shift in shifts:
        cut = _OFF + shift
        labels = _labels(segmenter, picture[cut:, cut:], tiling)
        inside = slice(first - cut, -tiling.tile)
        maps.append(labels[inside, inside])
    return [float((one != other).mean()) for one, other in itertools.combinations(maps, 2)]


def _labels(segmenter: Segmenter, picture: np.ndarray, tiling: Tiling) -> np.ndarray:
    labels = np.empty(picture.shape[:2], np.int64)
    for window, part in label_blocks(segmenter, ArraySource(picture), Vocabulary(tuple(CLASSES)), tiling):
        labels[window.top : window.top + window.height, window.left : window.left + window.width] = part
    return labels
