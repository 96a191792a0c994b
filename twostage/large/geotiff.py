"""GeoTIFF: pictures read window by window, labels written with the same georeference (rasterio)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twostage.data.images import eight_bits
from twostage.errors import UserError
from twostage.files import atomic_path
from twostage.large.tiling import Window
from twostage.visualization.palette import palette


def _rasterio() -> Any:
    try:
        import rasterio
        import rasterio.windows
    except ImportError as error:
        raise UserError("GeoTIFF needs rasterio: pip install 'twostage[geo]'") from error
    return rasterio


class GeoTiff:
    """An open GeoTIFF: the bands that say they are red, green and blue, else the first three; one or two bands are grey.

    Attributes:
        size: (height, width) in pixels.
        place: what says where on Earth it lies: `crs` with `transform` or `gcps`, and `rpcs`.
        brightest: the largest number that was read, on 0 to 1 of what the pixels' type holds.
    """

    def __init__(self, path: Path) -> None:
        """Raises UserError where it can't be read, or rasterio is not installed."""
        rasterio = _rasterio()
        self._path = path
        with _reading(path):
            self._file = rasterio.open(path)
        self.size: tuple[int, int] = (self._file.height, self._file.width)
        self.place = _place(self._file)
        self.brightest = 0.0
        self._bands = _bands(self._file)
        wrong = {kind for kind in self._file.dtypes if kind not in ("uint8", "uint16")}
        if wrong:
            raise UserError(
                f"'{path}' has pixels of type {wrong.pop()}, whose range nobody says; convert them to uint8 or uint16"
            )
        # Indices into a table of colours, where that is what the band holds.
        self._colors: np.ndarray | None = None
        if self._file.colorinterp[0].name == "palette":
            table = self._file.colormap(1)
            self._colors = np.array([table.get(index, (0, 0, 0))[:3] for index in range(max(table) + 1)], np.uint8)

    def read(self, window: Window) -> np.ndarray:
        """uint8 RGB `[h, w, 3]`. Raises UserError where the file is damaged."""
        with _reading(self._path):
            values = self._file.read(self._bands, window=_part(window)).transpose(1, 2, 0)
        self.brightest = max(self.brightest, float(values.max()) / np.iinfo(values.dtype).max)
        if self._colors is None:
            return eight_bits(values)
        return self._colors[np.minimum(values[..., 0], len(self._colors) - 1)]

    def valid(self, window: Window) -> np.ndarray:
        """bool `[h, w]`: where the picture holds data, by its "no data" value, its mask or its alpha band."""
        with _reading(self._path):
            return self._file.dataset_mask(window=_part(window)) > 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    errors = _rasterio().errors
    try:
        yield
    except (errors.RasterioError, OSError) as error:
        raise UserError(f"'{path}' can't be read as GeoTIFF ({' '.join(str(error).split())}); replace it") from error


def _part(window: Window) -> Any:
    return _rasterio().windows.Window(window.left, window.top, window.width, window.height)


def _bands(file: Any) -> list[int]:
    roles = [role.name for role in file.colorinterp]
    if {"red", "green", "blue"} <= set(roles):
        return [1 + roles.index(name) for name in ("red", "green", "blue")]
    return [1, 2, 3] if file.count >= 3 else [1, 1, 1]


def _place(file: Any) -> dict[str, Any]:
    points, system = file.gcps
    place = {"crs": system, "gcps": points} if points else {"crs": file.crs, "transform": file.transform}
    return place | ({"rpcs": file.rpcs} if file.rpcs else {})


@contextlib.contextmanager
def label_writer(
    path: Path, size: tuple[int, int], names: Sequence[str], place: dict[str, Any]
) -> Iterator[Callable[[Window, np.ndarray], None]]:
    """A function that writes labels `[h, w]` into a window of a new GeoTIFF; the file is there when the block succeeds.

    Labels are indices of `names`, the greatest number (255 or 65535) is "no data": none of them. Colours and names travel in
    the file.
    """
    rasterio = _rasterio()
    kind = np.uint8 if len(names) < 256 else np.uint16
    none = int(np.iinfo(kind).max)
    profile = {"driver": "GTiff", "height": size[0], "width": size[1], "count": 1, "dtype": kind, "nodata": none}
    written = np.zeros(none + 1, np.int64)
    with atomic_path(path) as temporary:
        with rasterio.open(
            temporary, "w", compress="deflate", tiled=True, BIGTIFF="IF_SAFER", **profile, **place
        ) as file:
            file.update_tags(names=json.dumps(list(names), ensure_ascii=False), twostage="labels")
            if kind is np.uint8:
                colors = {index: (*map(int, color), 255) for index, color in enumerate(palette(len(names)))}
                file.write_colormap(1, colors)

            def write(window: Window, labels: np.ndarray) -> None:
                values = np.where(labels < 0, none, labels).astype(kind)
                np.add(written, np.bincount(values.flatten(), minlength=len(written)), out=written)
                file.write(values, 1, window=_part(window))

            yield write
        # A full disk is no error to GDAL when it writes what it had kept in memory.
        if not _holds(temporary, written):
            raise UserError(f"can't write '{path}': it is not whole; make room or choose another output folder")


def _holds(path: Path, counts: np.ndarray) -> bool:
    """Whether a label map can be read and has each number as often as `counts` says."""
    rasterio = _rasterio()
    found = np.zeros_like(counts)
    try:
        with rasterio.open(path) as file:
            for _, window in file.block_windows(1):
                found += np.bincount(file.read(1, window=window).flatten(), minlength=len(found))
    except rasterio.errors.RasterioError:
        return False
    return bool((found == counts).all())
