"""PAMR against a slow computation pixel by pixel."""

from __future__ import annotations

import torch

from twostage.inference import pamr
from twostage.inference.pamr import Pamr

NEIGHBOURS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def slow(image, maps, steps, dilations):
    _, height, width = image.shape

    def at(tensor, y, x):
        return tensor[:, min(max(y, 0), height - 1), min(max(x, 0), width - 1)]

    for _ in range(steps):
        out = torch.zeros_like(maps)
        for y in range(height):
            for x in range(width):
                colours = torch.stack([at(image, y + d * j, x + d * i) for d in dilations for j, i in NEIGHBOURS])
                taps = torch.cat([colours, image[:, y, x].expand(len(dilations), -1)])
                closeness = -(colours - image[:, y, x]).abs() / (1e-8 + 0.1 * taps.std(dim=0))
                weights = closeness.mean(dim=1).softmax(dim=0)
                values = torch.stack([at(maps, y + d * j, x + d * i) for d in dilations for j, i in NEIGHBOURS])
                out[:, y, x] = weights @ values
        maps = out
    return maps


def test_equals_the_slow_computation():
    torch.manual_seed(0)
    image, maps = torch.randn(3, 6, 7), torch.randn(4, 6, 7)
    for steps, dilations in ((2, (1, 2)), (1, (8,))):
        ours = Pamr(image, steps=steps, dilations=dilations)(maps)
        torch.testing.assert_close(ours, slow(image, maps, steps, dilations), rtol=1e-4, atol=1e-5)


def test_chunks_change_nothing(monkeypatch):
    torch.manual_seed(0)
    image, maps = torch.randn(3, 9, 8), torch.randn(7, 9, 8)
    whole = Pamr(image, steps=3, dilations=(1, 3))(maps)
    monkeypatch.setattr(pamr, "_CHUNK_CPU", 2 * 72)
    torch.testing.assert_close(Pamr(image, steps=3, dilations=(1, 3))(maps), whole)


def test_no_steps_change_nothing_and_a_constant_map_stays():
    image, maps = torch.randn(3, 5, 5), torch.randn(2, 5, 5)
    assert torch.equal(Pamr(image, steps=0, dilations=(1,))(maps), maps)
    torch.testing.assert_close(Pamr(image, steps=4, dilations=(1, 2))(torch.ones(1, 5, 5)), torch.ones(1, 5, 5))
