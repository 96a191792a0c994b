"""Predictions put together from overlapping tiles.

Legend: B images, N tiles per image (row-major), K classes of a tile, C classes of the vocabulary, h x w a tile's grid.
The full-size score volume is never held: a strip of output rows asks each tile for the rows it contributes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from twostage.inference import blocks
from twostage.inference.resampling import Resampler, RowwiseResize, Size
from twostage.inference.sliding import TileGrid
from twostage.predictions.prediction import TopScores


@dataclasses.dataclass(frozen=True, kw_only=True)
class TileLayer:
    """Logits of all tiles of one grid.

    Attributes:
        logits: `[B, N, K, h, w]`.
        grid: where the tiles lie.
        kept: class indices `[B, N, K]` of the logits where every tile keeps classes of its own, None where K = C.
    """

    logits: Tensor
    grid: TileGrid
    kept: Tensor | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TiledPrediction:
    """Scores put together from tiles.

    A tile's logits are resized to the tile's size and, with `activation`, become scores there; where tiles overlap their
    mean counts. Every layer is resized to `canvas` and the layers are averaged (a whole-image view is a layer of one tile);
    the result is resized to the output size. All resizes are bilinear, align_corners False.

    Attributes:
        layers: at least one, with the same images.
        canvas: common size of the layers.
        num_classes: C.
        activation: elementwise, such as `torch.sigmoid`; None averages logits.
        fill: score (after the activation) of a class that a tile does not keep.
    """

    layers: Sequence[TileLayer]
    canvas: Size
    num_classes: int
    activation: Callable[[Tensor], Tensor] | None = None
    fill: float = float("-inf")

    def scores(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Scores `[C, height, width]` of each image; for parity checks and export, since it holds C maps."""
        result = []
        for index, size in enumerate(sizes):
            image = _TiledImage(self, index, size)
            classes = torch.arange(self.num_classes, device=image.device)
            out = torch.empty((self.num_classes, *size), device=image.device)
            for rows in blocks.strips(size, 5 * min(blocks.CLASS_BLOCK, self.num_classes)):
                for part in blocks.class_blocks(self.num_classes):
                    out[part, rows] = image(classes[part], rows)
            result.append(out)
        return result

    def label_maps(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Best class of each pixel, int64 `[height, width]` per image."""
        result = []
        for index, size in enumerate(sizes):
            image = _TiledImage(self, index, size)
            classes = self._candidates(index)
            labels = torch.empty(size, dtype=torch.int64, device=image.device)
            # A strip, what it is mixed of, the band of the canvas under it and a tile's part of that band are held together.
            for rows in blocks.strips(size, 5 * min(blocks.CLASS_BLOCK, len(classes))):
                labels[rows] = blocks.running_argmax(
                    (part.start, image(classes[part], rows)) for part in blocks.class_blocks(len(classes))
                )
            result.append(classes[labels])
        return result

    def top(self, sizes: Sequence[Size], count: int) -> list[TopScores]:
        """The `count` best classes of each pixel, per image."""
        result = []
        for index, size in enumerate(sizes):
            image = _TiledImage(self, index, size)
            classes = torch.arange(self.num_classes, device=image.device)
            room = TopScores.room(count, size, image.device)
            for rows in blocks.strips(size, 5 * min(blocks.CLASS_BLOCK, self.num_classes) + 2 * count):
                parts = ((part.start, image(classes[part], rows)) for part in blocks.class_blocks(self.num_classes))
                room.put(rows, blocks.running_top(parts, count))
            result.append(room)
        return result

    def _candidates(self, index: int) -> Tensor:
        """Ascending class indices that can win somewhere: those any tile keeps, and the first of those that none keeps."""
        device = self.layers[0].logits.device
        seen = torch.zeros(self.num_classes, dtype=torch.bool, device=device)
        for layer in self.layers:
            if layer.kept is None:
                return torch.arange(self.num_classes, device=device)
            seen[layer.kept[index].flatten()] = True
        rejected = (~seen).nonzero().flatten()
        seen[rejected[:1]] = True
        return seen.nonzero().flatten()


class _TiledImage:
    """One image of a `TiledPrediction` at one output size: scores of any classes in any rows."""

    def __init__(self, prediction: TiledPrediction, index: int, size: Size) -> None:
        self.prediction = prediction
        self.index = index
        self.device = prediction.layers[0].logits.device
        canvas = prediction.canvas
        self._to_canvas = [self._resize(layer.grid.canvas, canvas) for layer in prediction.layers]
        self._to_output = self._resize(canvas, size)
        self._to_tile = [
            Resampler(
                grid=(layer.logits.shape[-2], layer.logits.shape[-1]),
                padded=layer.grid.tile,
                image=layer.grid.tile,
                output=layer.grid.tile,
                device=self.device,
            )
            for layer in prediction.layers
        ]

    def __call__(self, classes: Tensor, rows: slice) -> Tensor:
        """Scores `[c, rows, width]` of the class indices `classes` `[c]`."""
        on_canvas = rows if self._to_output is None else self._to_output.source_rows(rows)
        total: Tensor | None = None
        for layer, to_tile, to_canvas in zip(self.prediction.layers, self._to_tile, self._to_canvas, strict=True):
            needed = on_canvas if to_canvas is None else to_canvas.source_rows(on_canvas)
            band = self._band(layer, to_tile, classes, needed)
            part = band if to_canvas is None else to_canvas(band, on_canvas)
            total = part if total is None else total.add_(part)
        assert total is not None, "a tiled prediction has at least one layer"
        mean = total.div_(len(self.prediction.layers))
        return mean if self._to_output is None else self._to_output(mean, rows)

    def _resize(self, size_in: Size, size_out: Size) -> RowwiseResize | None:
        return None if tuple(size_in) == tuple(size_out) else RowwiseResize(size_in, size_out, device=self.device)

    def _band(self, layer: TileLayer, to_tile: Resampler, classes: Tensor, rows: slice) -> Tensor:
        """Mean scores `[c, rows, canvas width]` in the canvas rows `rows` of a layer."""
        grid = layer.grid
        height, width = grid.tile
        band = torch.zeros((len(classes), rows.stop - rows.start, grid.canvas[1]), device=self.device)
        for number in range(len(grid)):
            top, left = grid.tops[number // len(grid.lefts)], grid.lefts[number % len(grid.lefts)]
            first, last = max(rows.start, top), min(rows.stop, top + height)
            if first >= last:
                continue
            scores = self._tile_rows(layer, to_tile, number, classes, slice(first - top, last - top))
            band[:, first - rows.start : last - rows.start, left : left + width] += scores
        return band if len(grid) == 1 else band.div_(grid.coverage(rows, self.device))

    def _tile_rows(self, layer: TileLayer, to_tile: Resampler, number: int, classes: Tensor, rows: slice) -> Tensor:
        logits = layer.logits[self.index, number]
        if layer.kept is None:
            return self._activate(to_tile(logits[classes], rows.start, rows.stop))
        kept = layer.kept[self.index, number]
        places = torch.full((self.prediction.num_classes,), -1, device=self.device)
        places[kept] = torch.arange(len(kept), device=self.device)
        mine = places[classes] >= 0
        scores = torch.full(
            (len(classes), rows.stop - rows.start, layer.grid.tile[1]), self.prediction.fill, device=self.device
        )
        scores[mine] = self._activate(to_tile(logits[places[classes[mine]]], rows.start, rows.stop))
        return scores

    def _activate(self, logits: Tensor) -> Tensor:
        return logits if self.prediction.activation is None else self.prediction.activation(logits)
