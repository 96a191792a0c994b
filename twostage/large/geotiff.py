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
    """An open GeoTIFF, its first three bands as RGB (one band: grey).

    Attributes:
        size: (height, width) in pixels.
        place: what says where on Earth it lies: `crs` and `transform`.
    """

    def __init__(self, path: Path) -> None:
        """Raises UserError where it can't be read, or rasterio is not installed."""
        rasterio = _rasterio()
        try:
            self._file = rasterio.open(path)
        except rasterio.errors.RasterioIOError as error:
            raise UserError(f"'{path}' can't be read as GeoTIFF ({error}); replace it") from error
        self.size: tuple[int, int] = (self._file.height, self._file.width)
        self.place = {"crs": self._file.crs, "transform": self._file.transform}
        self._bands = [1, 2, 3] if self._file.count >= 3 else [1, 1, 1]
        if self._file.dtypes[0] not in ("uint8", "uint16"):
            raise UserError(
                f"'{path}' has pixels of type {self._file.dtypes[0]}, whose range nobody says; convert them to uint8 or uint16"
            )

    def read(self, window: Window) -> np.ndarray:
        """uint8 RGB `[h, w, 3]`."""
        part = _rasterio().windows.Window(window.left, window.top, window.width, window.height)
        return eight_bits(self._file.read(self._bands, window=part).transpose(1, 2, 0))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
    with (
        atomic_path(path) as temporary,
        rasterio.open(temporary, "w", compress="deflate", tiled=True, BIGTIFF="IF_SAFER", **profile, **place) as file,
    ):
        file.update_tags(names=json.dumps(list(names), ensure_ascii=False), twostage="labels")
        if kind is np.uint8:
            colors = {index: (*map(int, color), 255) for index, color in enumerate(palette(len(names)))}
            file.write_colormap(1, colors)

        def write(window: Window, labels: np.ndarray) -> None:
            part = rasterio.windows.Window(window.left, window.top, window.width, window.height)
            file.write(np.where(labels < 0, none, labels).astype(kind), 1, window=part)

        yield write
