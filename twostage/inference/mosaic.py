"""Overlapping windows put together by one pair of matrices.

Where the windows' maps are averaged as they are (no activation in between), "resize each window's grid to the window, add
it to the canvas, divide by the number of windows there, resize to the output" is linear and separable. With the windows'
grids laid side by side, a mosaic `[..., rows * h, columns * w]`, all of it is R_y @ mosaic @ R_x^T: as cheap as resizing a
single map, and any strip of output rows can be had alone.

Legend: rows x columns windows of a `TileGrid`, h x w a window's grid.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.inference.keys import Padding
from twostage.inference.resampling import Resampler, Size, bilinear_matrix
from twostage.inference.sliding import TileGrid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mosaic:
    """The windows of one image and the way from their grids to any output size.

    Attributes:
        tiles: where the windows lie.
        padding: see `Padding`.
        patch: (height, width) that padded windows are a multiple of.
        through_canvas: resize a single window's grid to the canvas first; False: straight to the output.
        align_corners: how a window's grid is resized to the window (Talk2DINO); from there on it is False.
    """

    tiles: TileGrid
    padding: Padding = "none"
    patch: Size = (1, 1)
    through_canvas: bool = True
    align_corners: bool = False

    def cut(self, image: Tensor) -> Tensor:
        """Windows `[rows * columns, C, height, width]` of an image `[C, *canvas]`, padded."""
        (top, bottom), (left, right) = (self._margins(axis) for axis in (0, 1))
        return F.pad(self.tiles.cut(image[None]), (left, right, top, bottom))

    def assemble(self, maps: Tensor) -> Tensor:
        """Mosaic `[C, rows * h, columns * w]` of the windows' maps `[rows * columns, C, h, w]`."""
        rows, columns = len(self.tiles.tops), len(self.tiles.lefts)
        return maps.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)

    def resampler(self, mosaic: Size, output: Size, device: torch.device | str) -> Resampler:
        """The way from a mosaic of size `mosaic` to `output`."""
        rows, columns = (self._axis_matrix(axis, mosaic[axis], output[axis], device) for axis in (0, 1))
        return Resampler.from_matrices(rows, columns)

    def _edges(self, axis: int) -> tuple[int, ...]:
        return (self.tiles.tops, self.tiles.lefts)[axis]

    def _margins(self, axis: int) -> tuple[int, int]:
        """Padding before and after a window."""
        if self.padding == "none":
            return 0, 0
        missing = -self.tiles.tile[axis] % self.patch[axis]
        before = missing // 2 if self.padding == "centre" else 0
        return before, missing - before

    def _axis_matrix(self, axis: int, mosaic: int, output: int, device: torch.device | str) -> Tensor:
        canvas, tile, edges = self.tiles.canvas[axis], self.tiles.tile[axis], self._edges(axis)
        if len(self.tiles) == 1 and not self.through_canvas:
            return bilinear_matrix(mosaic, output, device=device)
        grid = mosaic // len(edges)
        matrix = torch.zeros(canvas, mosaic, device=device)
        count = torch.zeros(canvas, 1, device=device)
        window = self._window_matrix(axis, grid, tile, device)
        for number, edge in enumerate(edges):
            matrix[edge : edge + tile, number * grid : (number + 1) * grid] += window
            count[edge : edge + tile] += 1
        matrix /= count
        return matrix if canvas == output else bilinear_matrix(canvas, output, device=device) @ matrix

    def _window_matrix(self, axis: int, grid: int, tile: int, device: torch.device | str) -> Tensor:
        """From a window's grid to its pixels."""
        if self.padding != "centre":
            return bilinear_matrix(grid, tile, device=device, align_corners=self.align_corners)
        before, after = self._margins(axis)
        whole = bilinear_matrix(grid, before + tile + after, device=device, align_corners=self.align_corners)
        return whole[before : before + tile]
