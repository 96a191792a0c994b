"""Sliding windows: where the tiles lie, and cutting them for one batched pass (`twostage.predictions.tiled` puts their scores
together again).

Legend: B images, N tiles per image (row-major).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from twostage.inference.resampling import Size


@dataclasses.dataclass(frozen=True, kw_only=True)
class TileGrid:
    """Equal tiles that cover a canvas; sizes `(height, width)` and positions in pixels.

    Attributes:
        canvas: size of the image that is cut.
        tile: size of a tile.
        tops, lefts: upper and left edges; every pair of them is a tile.
    """

    canvas: Size
    tile: Size
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def covering(cls, canvas: Size, *, tile: Size, stride: Size) -> TileGrid:
        """Tiles every `stride` pixels, the last ones pushed back to end at the border; a tile larger than the canvas shrinks.

        >>> TileGrid.covering((640, 500), tile=(384, 384), stride=(256, 256)).lefts
        (0, 116)
        """
        height, width = min(canvas[0], tile[0]), min(canvas[1], tile[1])
        tops, lefts = _edges(canvas[0], height, stride[0]), _edges(canvas[1], width, stride[1])
        return cls(canvas=canvas, tile=(height, width), tops=tops, lefts=lefts)

    @classmethod
    def whole(cls, canvas: Size) -> TileGrid:
        """One tile as large as the canvas."""
        return cls(canvas=canvas, tile=canvas, tops=(0,), lefts=(0,))

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def cut(self, images: Tensor) -> Tensor:
        """Tiles of images `[B, C, *canvas]`: `[B * N, C, *tile]`, the tiles of an image one after the other."""
        height, width = self.tile
        tiles = [images[..., y : y + height, x : x + width] for y in self.tops for x in self.lefts]
        return torch.stack(tiles, dim=1).flatten(0, 1)

    def coverage(self, rows: slice, device: torch.device) -> Tensor:
        """How many tiles cover each pixel of canvas rows `rows`: `[rows, width]`."""
        vertical = _axis_coverage(self.canvas[0], self.tile[0], self.tops, device)[rows]
        return vertical[:, None] * _axis_coverage(self.canvas[1], self.tile[1], self.lefts, device)


def _edges(canvas: int, tile: int, stride: int) -> tuple[int, ...]:
    count = max(canvas - tile + stride - 1, 0) // stride + 1
    return tuple(min(i * stride, canvas - tile) for i in range(count))


def _axis_coverage(canvas: int, tile: int, edges: tuple[int, ...], device: torch.device) -> Tensor:
    count = torch.zeros(canvas, device=device)
    for edge in edges:
        count[edge : edge + tile] += 1
    return count
