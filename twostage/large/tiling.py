"""Labels of a large picture from overlapping tiles, whose scores are averaged with weights that fall off to a tile's border.

Where the tiles lie depends on the picture alone. The picture is labelled block by block, each as large as memory allows; a
block takes the scores of every tile that touches it, so that its labels do not depend on how blocks are cut.

Legend: C words, h x w a tile, H x W the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from twostage.api import Segmenter
from twostage.contrast.choice import Others
from twostage.inference.sliding import TileGrid
from twostage.predictions.prediction import UNLABELLED
from twostage.vocabulary import Vocabulary

# Least weight of a pixel at a tile's border, so that the picture's own border has some.
_LEAST_WEIGHT = 0.02


class Window(NamedTuple):
    """A part of a picture in pixels."""

    top: int
    left: int
    height: int
    width: int


class Source(Protocol):
    """A picture that is read in parts.

    Attributes:
        size: (height, width) in pixels.
    """

    size: tuple[int, int]

    def read(self, window: Window) -> np.ndarray:
        """uint8 RGB `[h, w, 3]`."""


class Tiling(NamedTuple):
    """`tile` and `overlap` in pixels; `memory` in bytes of scores."""

    tile: int
    overlap: int
    memory: int


def label_blocks(
    segmenter: Segmenter, source: Source, vocabulary: Vocabulary, tiling: Tiling, *, others: Others = None
) -> Iterator[tuple[Window, np.ndarray]]:
    """Windows that cover the picture and their labels int64 `[h, w]`, `UNLABELLED` for none of the words."""
    step = tiling.tile - tiling.overlap
    grid = TileGrid.covering(source.size, tile=(tiling.tile, tiling.tile), stride=(step, step))
    rivals = segmenter.competitors(vocabulary, others)
    for block in _blocks(source.size, grid, tiling.memory, 1 + len(vocabulary)):
        total = torch.zeros((1 + len(vocabulary), block.height, block.width))
        weight = torch.zeros((block.height, block.width))
        for top in grid.tops:
            for left in grid.lefts:
                tile = Window(top, left, *grid.tile)
                there, here = _shared(block, tile)
                if there is None or here is None:
                    continue
                scores = tile_scores(segmenter, source.read(tile), vocabulary, rivals)
                weights = tile_weights(grid.tile, tiling.overlap)
                total[:, there[0], there[1]] += (scores * weights)[:, here[0], here[1]]
                weight[there] += weights[here]
        # The last map is the share of none of the words.
        labels = total[:-1].argmax(dim=0)
        yield block, torch.where(total[-1] > 0.5 * weight, UNLABELLED, labels).numpy()


@torch.inference_mode()
def tile_scores(segmenter: Segmenter, pixels: np.ndarray, vocabulary: Vocabulary, rivals: tuple[str, ...]) -> Tensor:
    """Scores of the words `[C, h, w]` and, last, 1 where a pixel is none of them."""
    result = segmenter(pixels, vocabulary, others=list(rivals) or None)
    none = torch.from_numpy((result.labels < 0).astype(np.float32))[None]
    return torch.cat([result.scores().cpu(), none])


def tile_weights(tile: tuple[int, int], overlap: int) -> Tensor:
    """`[h, w]`: 1 inside, falling to the border over the overlap; neighbours' weights add up to about 1."""
    rows, columns = (_ramp(side, min(overlap, side // 2)) for side in tile)
    return rows[:, None] * columns


def _ramp(side: int, overlap: int) -> Tensor:
    place = torch.arange(side, dtype=torch.float32) + 0.5
    nearest = torch.minimum(place, side - place)
    return (nearest / max(overlap, 1)).clamp(_LEAST_WEIGHT, 1.0)


def _blocks(size: tuple[int, int], grid: TileGrid, memory: int, maps: int) -> Iterator[Window]:
    """Blocks whose scores fit into `memory`: whole rows of the picture where these are at least a tile high, else squares."""
    pixels = max(1, memory // (4 * maps))
    height, width = size
    rows = pixels // width
    if rows >= min(grid.tile[0], height):
        shape = (min(rows, height), width)
    else:
        side = max(1, int(pixels**0.5))
        shape = (min(side, height), min(side, width))
    for top in range(0, height, shape[0]):
        for left in range(0, width, shape[1]):
            yield Window(top, left, min(shape[0], height - top), min(shape[1], width - left))


_Slices = tuple[slice, slice]


def _shared(block: Window, tile: Window) -> tuple[_Slices | None, _Slices | None]:
    """Where the part that both hold lies in the block and in the tile; None where they share nothing."""
    inside: list[tuple[slice, slice]] = []
    for first, length, other, other_length in (
        (block.top, block.height, tile.top, tile.height),
        (block.left, block.width, tile.left, tile.width),
    ):
        start, stop = max(first, other), min(first + length, other + other_length)
        if start >= stop:
            return None, None
        inside.append((slice(start - first, stop - first), slice(start - other, stop - other)))
    (rows, tile_rows), (columns, tile_columns) = inside
    return (rows, columns), (tile_rows, tile_columns)


class ArraySource:
    """A picture in memory, uint8 RGB `[H, W, 3]`."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.size = (pixels.shape[0], pixels.shape[1])

    def read(self, window: Window) -> np.ndarray:
        """See `Source`."""
        return self.pixels[window.top : window.top + window.height, window.left : window.left + window.width]
