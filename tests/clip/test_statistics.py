"""Changes of pixel units: every network takes the pictures themselves, padded alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from twostage.clip.keys import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD
from twostage.clip.statistics import CLIP_STATISTICS, Pictures, PixelStatistics, PixelUnits


def test_units_are_less_the_mean_over_the_deviation():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1)
    units = PixelUnits(PixelStatistics((1.0, 11.0, 55.0), (2.0, 4.0, 50.0)))
    assert units(pixels).flatten().tolist() == [-0.5, 10.0, 4.0]
    assert PixelStatistics((1.0, 11.0, 55.0), (2.0, 4.0, 50.0)).colour((0, 51, 255)) == (-0.5, 10.0, 4.0)
    assert not units.state_dict()


def test_a_batch_in_other_units_is_padded_alike_and_exact():
    """No rounding error of the first units is left in the second, whole pixels or not."""
    torch.manual_seed(0)
    pictures = [torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8), torch.rand(3, 33, 16) * 255]
    first = Pictures(pictures, PixelUnits(PixelStatistics((7.0, 8.0, 9.0), (3.0, 3.0, 3.0))), 16)
    second = first.in_units(PixelUnits(CLIP_STATISTICS))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_PIXEL_MEAN, CLIP_PIXEL_STD))
    for index, picture in enumerate(pictures):
        own = (picture - mean) / std
        wanted = F.pad(own, (0, 32 - own.shape[2], 0, 48 - own.shape[1]))
        assert torch.equal(second.tensor[index], wanted)
        assert torch.equal(second[index], own)
    assert first.tensor.shape == second.tensor.shape and first.image_sizes == second.image_sizes
