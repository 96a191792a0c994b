"""The measure of `tools/tile_placements.py`: 0 for labels that are the pixels' own, known for those of a tile's halves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from twostage.commands.tile_placements import disagreements, scene_mosaic
from twostage.data.toybox.words import CLASSES
from twostage.large.tiling import Tiling


class Stand:
    """A segmenter whose label is `label(pixels)` `[h, w]`."""

    def __init__(self, label: Any) -> None:
        self.label = label

    def competitors(self, *_: Any) -> tuple[str, ...]:
        return ()

    def __call__(self, pixels: np.ndarray, *_: Any, **__: Any) -> Any:
        labels = self.label(pixels)
        scores = torch.nn.functional.one_hot(torch.from_numpy(labels), len(CLASSES)).permute(2, 0, 1).float()
        return SimpleNamespace(labels=labels, scores=lambda: scores)


def left_or_right(pixels: np.ndarray) -> np.ndarray:
    """0 in the left half of a tile, 1 in the right."""
    return np.broadcast_to(np.arange(pixels.shape[1]) * 2 // pixels.shape[1], pixels.shape[:2]).astype(np.int64)


def test_shares_of_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 40, (256, 256, 3), dtype=np.uint8)
    own: Any = Stand(lambda pixels: pixels[..., 0].astype(np.int64))
    assert disagreements(own, picture, Tiling(32, 8, 2**24), (0, 11, 29)) == [0.0, 0.0, 0.0]
    # Without overlap a label is the place in the tile: half a tile further all differ, a quarter further half of them.
    halves: Any = Stand(left_or_right)
    found = disagreements(halves, picture, Tiling(32, 0, 2**24), (0, 16, 24))
    assert np.allclose(found, [1.0, 0.5, 0.5], atol=0.1)


def test_picture_is_25_scenes() -> None:
    picture = scene_mosaic()
    assert picture.shape == (640, 640, 3) and picture.dtype == np.uint8
    tiles = {picture[y : y + 128, x : x + 128].tobytes() for y in range(0, 640, 128) for x in range(0, 640, 128)}
    assert len(tiles) == 25
