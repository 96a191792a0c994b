"""Windows put together by matrices equal windows put together one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twostage.inference.mosaic import Mosaic
from twostage.inference.sliding import TileGrid


def one_by_one(maps, tiles, output, margins=((0, 0), (0, 0))):
    """Resize each window's map, cut its padding, add, divide by the count, resize."""
    (top, bottom), (left, right) = margins
    height, width = tiles.tile
    total, count = torch.zeros(maps.shape[1], *tiles.canvas), torch.zeros(tiles.canvas)
    for number, (y, x) in enumerate((y, x) for y in tiles.tops for x in tiles.lefts):
        size = (top + height + bottom, left + width + right)
        big = F.interpolate(maps[number : number + 1], size=size, mode="bilinear")[0]
        total[:, y : y + height, x : x + width] += big[:, top : top + height, left : left + width]
        count[y : y + height, x : x + width] += 1
    return F.interpolate((total / count)[None], size=output, mode="bilinear")[0]


@pytest.mark.parametrize("canvas", [(40, 55), (24, 24), (16, 70)])
def test_overlapping_windows(canvas):
    torch.manual_seed(0)
    tiles = TileGrid.covering(canvas, tile=(24, 24), stride=(12, 12))
    mosaic = Mosaic(tiles=tiles)
    maps = torch.randn(len(tiles), 3, 3, 4)
    side_by_side = mosaic.assemble(maps)
    resample = mosaic.resampler(side_by_side.shape[-2:], (31, 62), "cpu")
    wanted = one_by_one(maps, tiles, (31, 62))
    torch.testing.assert_close(resample(side_by_side), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(resample(side_by_side, 7, 12), wanted[:, 7:12], rtol=1e-4, atol=1e-5)


def test_cut_windows_come_in_the_order_of_the_mosaic():
    image = torch.arange(3 * 30 * 30.0).view(3, 30, 30)
    mosaic = Mosaic(tiles=TileGrid.covering((30, 30), tile=(20, 20), stride=(10, 10)))
    windows = mosaic.cut(image)
    assert torch.equal(windows[1], image[:, :20, 10:30]) and torch.equal(windows[2], image[:, 10:30, :20])
    assert torch.equal(mosaic.assemble(windows)[:, 20:, :20], windows[2])


def test_centred_padding_is_cut_off_again():
    torch.manual_seed(0)
    tiles = TileGrid.whole((21, 30))
    mosaic = Mosaic(tiles=tiles, padding="centre", patch=(8, 8))
    window = mosaic.cut(torch.ones(1, 21, 30))[0, 0]
    assert window.shape == (24, 32) and float(window.sum()) == 21 * 30
    assert torch.equal(window[1:22, 1:31], torch.ones(21, 30))
    maps = torch.randn(1, 2, 3, 4)
    resample = mosaic.resampler((3, 4), (21, 30), "cpu")
    wanted = one_by_one(maps, tiles, (21, 30), margins=((1, 2), (1, 1)))
    torch.testing.assert_close(resample(mosaic.assemble(maps)), wanted, rtol=1e-4, atol=1e-5)


def test_stretched_padding_moves_the_grid_over_the_unpadded_window():
    torch.manual_seed(0)
    mosaic = Mosaic(tiles=TileGrid.whole((21, 30)), padding="stretch", patch=(8, 8))
    window = mosaic.cut(torch.ones(1, 21, 30))[0, 0]
    assert window.shape == (24, 32) and torch.equal(window[:21, :30], torch.ones(21, 30))
    maps = torch.randn(2, 3, 4)
    wanted = F.interpolate(F.interpolate(maps[None], size=(21, 30), mode="bilinear"), size=(42, 50), mode="bilinear")[0]
    torch.testing.assert_close(mosaic.resampler((3, 4), (42, 50), "cpu")(maps), wanted, rtol=1e-4, atol=1e-5)


def test_one_resize_or_two():
    torch.manual_seed(0)
    maps, tiles = torch.randn(2, 5, 7), TileGrid.whole((6, 9))
    direct = Mosaic(tiles=tiles, through_canvas=False).resampler((5, 7), (50, 61), "cpu")(maps)
    torch.testing.assert_close(
        direct, F.interpolate(maps[None], size=(50, 61), mode="bilinear")[0], rtol=1e-4, atol=1e-5
    )
    assert (direct - Mosaic(tiles=tiles).resampler((5, 7), (50, 61), "cpu")(maps)).abs().max() > 1e-2
