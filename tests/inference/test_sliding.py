"""Sliding windows: positions as published, and tiles in order."""

from __future__ import annotations

import pytest
import torch

from twostage.inference.sliding import TileGrid


@pytest.mark.parametrize(
    ("canvas", "tile", "stride", "tops", "lefts"),
    [
        ((640, 640), (384, 384), (256, 256), (0, 256), (0, 256)),
        ((336, 500), (224, 224), (112, 112), (0, 112), (0, 112, 224, 276)),
        ((560, 1120), (224, 224), (112, 112), (0, 112, 224, 336), tuple(range(0, 897, 112))),
        ((100, 300), (224, 224), (112, 112), (0,), (0, 76)),
    ],
)
def test_positions(canvas, tile, stride, tops, lefts):
    grid = TileGrid.covering(canvas, tile=tile, stride=stride)
    assert (grid.tops, grid.lefts) == (tops, lefts)
    assert grid.tile == (min(canvas[0], tile[0]), min(canvas[1], tile[1]))
    assert int(grid.coverage(slice(0, canvas[0]), torch.device("cpu")).min()) >= 1


def test_cut_is_row_major_per_image():
    images = torch.arange(2 * 6 * 8).view(2, 1, 6, 8)
    grid = TileGrid.covering((6, 8), tile=(4, 4), stride=(2, 4))
    tiles = grid.cut(images)
    assert tiles.shape == (8, 1, 4, 4)
    assert torch.equal(tiles[1], images[0, :, 0:4, 4:8])
    assert torch.equal(tiles[4 + 2], images[1, :, 2:6, 0:4])
