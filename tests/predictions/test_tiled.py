"""Tiles put together: scores equal to the slow way of adding full-size maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twostage.inference import blocks
from twostage.inference.sliding import TileGrid
from twostage.predictions.tiled import TiledPrediction, TileLayer


def resize(maps, size):
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def slow_scores(prediction, index, size):
    """Every tile at full size, added up and divided, as the published implementations do it."""
    total = 0
    for layer in prediction.layers:
        canvas, count = torch.zeros(prediction.num_classes, *layer.grid.canvas), torch.zeros(layer.grid.canvas)
        corners = [(y, x) for y in layer.grid.tops for x in layer.grid.lefts]
        for number, (y, x) in enumerate(corners):
            maps = resize(layer.logits[index, number][None], layer.grid.tile)[0]
            maps = maps if prediction.activation is None else prediction.activation(maps)
            if layer.kept is not None:
                full = torch.full((prediction.num_classes, *layer.grid.tile), prediction.fill)
                full[layer.kept[index, number]] = maps
                maps = full
            height, width = layer.grid.tile
            canvas[:, y : y + height, x : x + width] += maps
            count[y : y + height, x : x + width] += 1
        total = total + resize((canvas / count)[None], prediction.canvas)
    return resize(total / len(prediction.layers), size)[0]


@pytest.fixture(params=["mean of logits", "sigmoid, whole view", "own classes"])
def prediction(request):
    torch.manual_seed(0)
    grid = TileGrid.covering((30, 40), tile=(16, 24), stride=(9, 16))
    count = len(grid)
    if request.param == "mean of logits":
        layers = [TileLayer(logits=torch.randn(2, count, 5, 4, 6), grid=grid)]
        return TiledPrediction(layers=layers, canvas=(30, 40), num_classes=5)
    if request.param == "sigmoid, whole view":
        layers = [
            TileLayer(logits=3 * torch.randn(2, count, 5, 4, 6), grid=grid),
            TileLayer(logits=3 * torch.randn(2, 1, 5, 4, 6), grid=TileGrid.whole((16, 24))),
        ]
        return TiledPrediction(layers=layers, canvas=(30, 40), num_classes=5, activation=torch.sigmoid)
    kept = torch.stack([torch.randperm(9)[:3] for _ in range(2 * count)]).view(2, count, 3) + 2
    layers = [TileLayer(logits=torch.randn(2, count, 3, 4, 6), grid=grid, kept=kept)]
    return TiledPrediction(layers=layers, canvas=(30, 40), num_classes=12, activation=torch.sigmoid, fill=0.25)


@pytest.mark.parametrize("size", [(30, 40), (47, 33)])
@pytest.mark.parametrize("floats", [300, 16_000_000])
def test_scores_and_labels_equal_the_slow_way(prediction, size, floats, monkeypatch):
    monkeypatch.setattr(blocks, "STRIP_FLOATS", floats)
    monkeypatch.setattr(blocks, "CLASS_BLOCK", 4)
    scores, labels = prediction.scores([size, size]), prediction.label_maps([size, size])
    for index in range(2):
        wanted = slow_scores(prediction, index, size)
        torch.testing.assert_close(scores[index], wanted, rtol=1e-4, atol=1e-6)
        assert (labels[index] == scores[index].argmax(0)).float().mean() > 0.999
        best = prediction.top([size, size], 2)[index]
        torch.testing.assert_close(best.scores, wanted.topk(2, dim=0).values, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(scores[index].gather(0, best.labels), best.scores, rtol=1e-4, atol=1e-6)


def test_a_class_that_no_tile_keeps_can_win():
    grid = TileGrid.whole((8, 8))
    kept = torch.tensor([[[1, 3]]])
    layers = [TileLayer(logits=torch.full((1, 1, 2, 2, 2), -9.0), grid=grid, kept=kept)]
    prediction = TiledPrediction(layers=layers, canvas=(8, 8), num_classes=5, activation=torch.sigmoid, fill=0.5)
    assert prediction.label_maps([(8, 8)])[0].unique().tolist() == [0]
    assert prediction.scores([(8, 8)])[0].argmax(0).unique().tolist() == [0]
