"""What CAT-Seg looks at: the whole padded image, or overlapping tiles of it and the whole (Cho et al., CVPR 2024, supplement).

Legend: B images, V = B * (views per image), the views of an image one after the other.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor

from twostage.inference.sliding import TileGrid
from twostage.predictions.dense import DensePrediction
from twostage.predictions.geometry import Geometry
from twostage.predictions.tiled import TiledPrediction, TileLayer
from twostage.systems.one_stage.cost_aggregation.kept_classes import REJECTED_PROBABILITY


class ClassScores(NamedTuple):
    """Logits `[V, K, h, w]` and the classes `[V, K]` (ascending) they belong to, None where these are all `num_classes`."""

    logits: Tensor
    kept: Tensor | None
    num_classes: int


class WholeImage:
    """One view: the padded image, squeezed into CLIP's square.

    The padding is not cut off the prediction again, so that a padded image's is stretched a little: the published
    behaviour.
    """

    def cut(self, images: ImageList, side: int) -> Tensor:
        """Views `[V, 3, side, side]` of normalised, padded images."""
        return _resize(images.tensor, (side, side))

    def join(self, scores: ClassScores, image_sizes: list[tuple[int, int]]) -> DensePrediction:
        """Probabilities of the views; they, not the logits, are resized to the output."""
        grid = (scores.logits.shape[-2], scores.logits.shape[-1])
        return DensePrediction(
            logits=scores.logits.sigmoid(),
            geometry=Geometry.on_grid(grid, image_sizes),
            num_classes=scores.num_classes,
            kept=scores.kept,
            fill=REJECTED_PROBABILITY,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlidingWindow:
    """Tiles of the image squeezed into a square canvas and, if wanted, the whole image.

    Attributes:
        tile, stride: of the windows, in pixels of the canvas.
        canvas: its side.
        whole: with a view of the whole image, as large as a tile.
    """

    tile: int
    stride: int
    canvas: int
    whole: bool

    def cut(self, images: ImageList, side: int) -> Tensor:
        """Views `[V, 3, side, side]` of normalised images; padding is not looked at."""
        grid, views = self.grid, []
        for image in (images[index][None] for index in range(len(images))):
            cut = [grid.cut(_resize(image, grid.canvas))]
            if self.whole:
                cut.append(_resize(image, grid.tile))
            views += [_resize(tiles, (side, side)) for tiles in cut]
        return torch.cat(views)

    def join(self, scores: ClassScores, image_sizes: list[tuple[int, int]]) -> TiledPrediction:
        """Probabilities at the tiles' own size, averaged where tiles overlap, then with the whole view."""
        grid = self.grid
        logits = scores.logits.unflatten(0, (len(image_sizes), -1))
        kept = None if scores.kept is None else scores.kept.unflatten(0, (len(image_sizes), -1))
        tiles = slice(0, len(grid))
        layers = [TileLayer(logits=logits[:, tiles], grid=grid, kept=None if kept is None else kept[:, tiles])]
        if self.whole:
            rest = slice(len(grid), None)
            layers.append(
                TileLayer(
                    logits=logits[:, rest],
                    grid=TileGrid.whole(grid.tile),
                    kept=None if kept is None else kept[:, rest],
                )
            )
        return TiledPrediction(
            layers=layers,
            canvas=grid.canvas,
            num_classes=scores.num_classes,
            activation=torch.sigmoid,
            fill=REJECTED_PROBABILITY,
        )

    @property
    def grid(self) -> TileGrid:
        """Where the tiles lie on the canvas."""
        canvas, tile, stride = ((side, side) for side in (self.canvas, self.tile, self.stride))
        return TileGrid.covering(canvas, tile=tile, stride=stride)


def views_from_config(cfg: CfgNode) -> WholeImage | SlidingWindow:
    """The views that evaluation uses, from `TEST.SLIDING`."""
    keys = cfg.TEST.SLIDING
    if not keys.ENABLED:
        return WholeImage()
    return SlidingWindow(tile=keys.TILE, stride=keys.STRIDE, canvas=keys.CANVAS, whole=keys.WHOLE_IMAGE)


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
