"""Bilinear resizes as a pair of small matrices, so that any rows of a resized map can be had without the rest.

A bilinear resize is linear and separable: out = R_y @ map @ R_x^T. Crops are row selections and several resizes in a row
are matrix products, so the chain "resize to the padded size, crop, resize to the output size" becomes one pair of
matrices, and a strip of output rows needs only its rows of R_y.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# (height, width) in pixels or cells.
Size = tuple[int, int]


def bilinear_matrix(
    size_in: int, size_out: int, *, device: torch.device | str = "cpu", align_corners: bool = False
) -> Tensor:
    """`[size_out, size_in]`: bilinear resize of one axis, as `F.interpolate(size=...)` does it."""
    eye = torch.eye(size_in, device=device)[None]
    return F.interpolate(eye, size=size_out, mode="linear", align_corners=align_corners)[0].T.contiguous()


class Resampler:
    """The chain "resize to `padded`, crop to `image`, resize to `output`" of maps on a coarse grid.

    Sizes are `(height, width)` in pixels. Steps that change nothing are left out.
    """

    def __init__(
        self,
        *,
        grid: Size,
        padded: Size,
        image: Size,
        output: Size,
        device: torch.device | str = "cpu",
    ) -> None:
        self.output = output
        self._rows, self._columns = (
            _axis_matrix(g, p, i, o, device) for g, p, i, o in zip(grid, padded, image, output, strict=True)
        )

    @classmethod
    def from_matrices(cls, rows: Tensor, columns: Tensor) -> Resampler:
        """Any separable linear map: `[height, h]` and `[width, w]`."""
        made = cls.__new__(cls)
        made.output = (len(rows), len(columns))
        made._rows, made._columns = rows, columns
        return made

    def __call__(self, maps: Tensor, first_row: int = 0, last_row: int | None = None) -> Tensor:
        """Output rows `first_row:last_row` of `maps` `[..., h, w]`: `[..., rows, width]`."""
        used = self.grid_rows(first_row, last_row)
        return self.from_grid_rows(maps[..., used, :], used, first_row, last_row)

    def grid_rows(self, first_row: int = 0, last_row: int | None = None) -> slice:
        """The grid rows that output rows `first_row:last_row` look at."""
        used = self._rows[first_row:last_row].abs().sum(dim=0).nonzero()
        return slice(int(used.min()), int(used.max()) + 1)

    def from_grid_rows(self, maps: Tensor, grid_rows: slice, first_row: int = 0, last_row: int | None = None) -> Tensor:
        """Output rows as `__call__`, from maps `[..., grid rows, w]` that hold only the rows `grid_rows(...)` names."""
        rows = self._rows[first_row:last_row, grid_rows].to(maps.dtype)
        return rows @ (maps @ self._columns.to(maps.dtype).T)

    def columns_last(self, maps: Tensor) -> Tensor:
        """Columns of `maps` `[C, h, w]` resized, classes innermost: `[h, width, C]`."""
        return self._columns.to(maps.dtype) @ maps.permute(1, 2, 0).contiguous()

    def rows_last(self, wide: Tensor, first_row: int, last_row: int) -> Tensor:
        """Output rows `[rows, width, C]` from `columns_last(...)`."""
        used = self.grid_rows(first_row, last_row)
        rows = self._rows[first_row:last_row, used].to(wide.dtype)
        return (rows @ wide[used].flatten(1)).unflatten(1, wide.shape[1:])


class RowwiseResize:
    """Bilinear resize (align_corners False) of fine maps, a strip of output rows at a time: two rows and two columns each.

    For maps about as large as the output, where matrices as in `Resampler` would be mostly zeros.
    """

    def __init__(self, size_in: Size, size_out: Size, *, device: torch.device | str) -> None:
        self._rows, self._row_share = _bilinear_taps(size_in[0], size_out[0], device)
        self._width = size_out[1]

    def source_rows(self, rows: slice) -> slice:
        """Rows of the input that the output `rows` look at."""
        return slice(int(self._rows[0, rows.start]), int(self._rows[1, rows.stop - 1]) + 1)

    def __call__(self, band: Tensor, rows: slice) -> Tensor:
        """Output `rows` `[..., rows, width]` from the input's `source_rows(rows)` `[..., r, w]`."""
        first, second = self._rows[:, rows] - self._rows[0, rows.start]
        mixed = band[..., first, :].lerp(band[..., second, :], self._row_share[rows, None].to(band.dtype))
        # Columns lie next to each other in memory, where picking them by index is several times as dear.
        lines = mixed.flatten(0, -2)[None]
        return F.interpolate(lines, size=self._width, mode="linear", align_corners=False)[0].unflatten(
            0, mixed.shape[:-1]
        )


def _bilinear_taps(size_in: int, size_out: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """The two places int64 `[2, size_out]` that each output place looks at, and the share of the second."""
    place = torch.arange(size_out, device=device, dtype=torch.float32)
    source = ((place + 0.5) * (size_in / size_out) - 0.5).clamp(min=0)
    low = source.floor().long().clamp(max=size_in - 1)
    return torch.stack([low, (low + 1).clamp(max=size_in - 1)]), source - low


def _axis_matrix(grid: int, padded: int, image: int, output: int, device: torch.device | str) -> Tensor:
    matrix = bilinear_matrix(grid, padded, device=device)[:image]
    if output != image:
        matrix = bilinear_matrix(image, output, device=device) @ matrix
    return matrix
