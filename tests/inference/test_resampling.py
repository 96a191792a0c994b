"""Resizes as matrices give what the chain of interpolations gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twostage.inference.resampling import Resampler, RowwiseResize


@pytest.mark.parametrize("output", [(45, 70), (61, 33), (48, 64), (30, 500)])
def test_equals_resize_crop_resize(output):
    torch.manual_seed(0)
    maps = torch.randn(3, 6, 8)
    wanted = F.interpolate(maps[None], size=(48, 64), mode="bilinear", align_corners=False)[..., :45, :61]
    wanted = F.interpolate(wanted, size=output, mode="bilinear", align_corners=False)[0]
    resample = Resampler(grid=(6, 8), padded=(48, 64), image=(45, 61), output=output)
    torch.testing.assert_close(resample(maps), wanted, rtol=1e-5, atol=1e-5)


def test_rows_are_the_rows_of_the_whole():
    maps = torch.randn(2, 5, 5)
    resample = Resampler(grid=(5, 5), padded=(40, 40), image=(40, 37), output=(53, 37))
    whole = resample(maps)
    pieces = torch.cat([resample(maps, start, min(start + 7, 53)) for start in range(0, 53, 7)], dim=1)
    torch.testing.assert_close(pieces, whole, rtol=1e-6, atol=1e-6)
    strips = list(resample.strips(maps, slice(3, 50), 6))
    assert [rows.start for rows, _ in strips] == list(range(3, 50, 6))
    torch.testing.assert_close(torch.cat([strip for _, strip in strips], dim=1), whole[:, 3:50], rtol=1e-6, atol=1e-6)


def test_no_output_looks_further_than_it_must():
    """A column is made of few of the grid's columns, so that what is not finite elsewhere does not reach it."""
    maps = torch.randn(1, 40, 100)
    resample = Resampler(grid=(40, 100), padded=(160, 400), image=(160, 400), output=(160, 400))
    wanted = resample(maps)
    maps[..., -1] = torch.inf
    maps[:, -1] = torch.inf
    assert torch.equal(resample(maps, 0, 150)[..., :320], wanted[:, :150, :320])
    torch.testing.assert_close(resample.columns_last(maps)[:39, :320, 0], resample.widen(maps)[0, :39, :320])


@pytest.mark.parametrize("output", [(45, 70), (20, 33), (48, 64), (1, 1)])
def test_rowwise_resize_equals_interpolation(output):
    torch.manual_seed(0)
    maps = torch.randn(3, 41, 50)
    wanted = F.interpolate(maps[None], size=output, mode="bilinear", align_corners=False)[0]
    resize = RowwiseResize((41, 50), output, device="cpu")
    strips = [slice(start, min(start + 7, output[0])) for start in range(0, output[0], 7)]
    pieces = [resize(maps[:, resize.source_rows(rows)], rows) for rows in strips]
    torch.testing.assert_close(torch.cat(pieces, dim=1), wanted, rtol=1e-5, atol=1e-5)
