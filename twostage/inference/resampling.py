"""Bilinear resizes as a pair of small matrices, so that any rows of a resized map can be had without the rest.

A bilinear resize is linear and separable: out = R_y @ map @ R_x^T. Crops are row selections and several resizes in a row
are matrix products, so the chain "resize to the padded size, crop, resize to the output size" becomes one pair of
matrices, and a strip of output rows needs only its rows of R_y.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# (height, width) in pixels or cells.
Size = tuple[int, int]

# Columns of an output that are made at a time on a CPU: few enough that their part of the matrix is nearly dense.
_BAND = 64
# Rows that are mixed at a time on a CPU, for the same reason.
_ROWS = 8


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
        rows, columns = (
            _axis_matrix(g, p, i, o, device) for g, p, i, o in zip(grid, padded, image, output, strict=True)
        )
        self._keep(rows, columns)

    @classmethod
    def from_matrices(cls, rows: Tensor, columns: Tensor) -> Resampler:
        """Any separable linear map: `[height, h]` and `[width, w]`."""
        made = cls.__new__(cls)
        made._keep(rows, columns)
        return made

    def _keep(self, rows: Tensor, columns: Tensor) -> None:
        self.output = (len(rows), len(columns))
        self._rows, self._columns = rows, columns
        self._row_spans = _spans(rows)
        spans = _spans(columns)
        band = _BAND if columns.device.type == "cpu" else len(columns)
        self._bands = [
            (slice(start, start + band), _union(spans[start : start + band])) for start in range(0, len(columns), band)
        ]

    def __call__(self, maps: Tensor, first_row: int = 0, last_row: int | None = None) -> Tensor:
        """Output rows `first_row:last_row` of `maps` `[..., h, w]`: `[..., rows, width]`."""
        used = self.grid_rows(first_row, last_row)
        return self.from_grid_rows(maps[..., used, :], used, first_row, last_row)

    def grid_rows(self, first_row: int = 0, last_row: int | None = None) -> slice:
        """The grid rows that output rows `first_row:last_row` look at."""
        return _union(self._row_spans[first_row:last_row])

    def from_grid_rows(self, maps: Tensor, grid_rows: slice, first_row: int = 0, last_row: int | None = None) -> Tensor:
        """Output rows as `__call__`, from maps `[..., grid rows, w]` that hold only the rows `grid_rows(...)` names."""
        rows = self._rows[first_row:last_row, grid_rows].to(maps.dtype)
        return rows @ self.widen(maps)

    def widen(self, maps: Tensor) -> Tensor:
        """Columns of `maps` `[..., h, w]` resized: `[..., h, width]`."""
        columns = self._columns.to(maps.dtype)
        return _joined([maps[..., used] @ columns[out, used].T for out, used in self._bands], dim=-1)

    def strips(self, maps: Tensor, rows: slice, height: int) -> Iterator[tuple[slice, Tensor]]:
        """Output `rows` of `maps` `[..., h, w]`, no more than `height` at a time: the rows and `[..., rows, width]`.

        Columns are resized once for all of them.
        """
        used = self.grid_rows(rows.start, rows.stop)
        wide = self.widen(maps[..., used, :])
        for start in range(rows.start, rows.stop, height):
            part = slice(start, min(start + height, rows.stop))
            mine = self.grid_rows(part.start, part.stop)
            held = wide[..., mine.start - used.start : mine.stop - used.start, :]
            yield part, self._rows[part, mine].to(maps.dtype) @ held

    def columns_last(self, maps: Tensor) -> Tensor:
        """Columns of `maps` `[C, h, w]` resized, classes innermost: `[h, width, C]`."""
        columns, inner = self._columns.to(maps.dtype), maps.permute(1, 2, 0).contiguous()
        return _joined([columns[out, used] @ inner[:, used] for out, used in self._bands], dim=1)

    def rows_last(self, wide: Tensor, first_row: int, last_row: int) -> Tensor:
        """Output rows `[rows, width, C]` from `columns_last(...)`."""
        used = self.grid_rows(first_row, last_row)
        rows = self._rows[first_row:last_row, used].to(wide.dtype)
        return (rows @ wide[used].flatten(1)).unflatten(1, wide.shape[1:])


def _spans(matrix: Tensor) -> list[slice]:
    """Per row of a matrix `[n, m]` the columns from its first to its last that is not zero; all of a row of zeros."""
    used = (matrix != 0).int()
    first, behind = used.argmax(dim=1), matrix.shape[1] - used.flip(1).argmax(dim=1)
    return [slice(a, b) for a, b in torch.stack([first, behind], dim=1).tolist()]


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    """`torch.cat`, which copies one part, too."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


def _union(spans: Sequence[slice]) -> slice:
    return slice(min(span.start for span in spans), max(span.stop for span in spans))


class RowwiseResize:
    """Bilinear resize (align_corners False) of fine maps, a strip of output rows at a time.

    For maps about as large as the output. Rows are mixed by a small matrix, a few at a time on a CPU; columns, which lie next
    to each other in memory, by `F.interpolate`.
    """

    def __init__(self, size_in: Size, size_out: Size, *, device: torch.device | str) -> None:
        self._rows = bilinear_matrix(size_in[0], size_out[0], device=device)
        self._spans = _spans(self._rows)
        self._width = size_out[1]

    def source_rows(self, rows: slice) -> slice:
        """Rows of the input that the output `rows` look at."""
        return _union(self._spans[rows])

    def __call__(self, band: Tensor, rows: slice) -> Tensor:
        """Output `rows` `[..., rows, width]` from the input's `source_rows(rows)` `[..., r, w]`."""
        first = self.source_rows(rows).start
        step = _ROWS if band.device.type == "cpu" else rows.stop - rows.start
        mixed = []
        for start in range(rows.start, rows.stop, step):
            part = slice(start, min(start + step, rows.stop))
            used = self.source_rows(part)
            held = band[..., used.start - first : used.stop - first, :]
            mixed.append(self._rows[part, used].to(band.dtype) @ held)
        whole = _joined(mixed, dim=-2)
        lines = whole.flatten(0, -2)[None]
        return F.interpolate(lines, size=self._width, mode="linear", align_corners=False)[0].unflatten(
            0, whole.shape[:-1]
        )


def _axis_matrix(grid: int, padded: int, image: int, output: int, device: torch.device | str) -> Tensor:
    matrix = bilinear_matrix(grid, padded, device=device)[:image]
    if output != image:
        matrix = bilinear_matrix(image, output, device=device) @ matrix
    return matrix
