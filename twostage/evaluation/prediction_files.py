"""Where the saved label map of an image goes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from twostage.data.catalogue import DatasetInfo
from twostage.errors import UserError


class PredictionFiles:
    """Image file -> PNG below `folder`, each its own: the image's path below the dataset's folder (or below the folder that
    all of them share), with its suffix where that would be another image's place."""

    def __init__(self, info: DatasetInfo, folder: Path) -> None:
        self._info = info
        self._folder = folder
        self._known: Mapping[str, Path] | None = None

    def __getitem__(self, file_name: str) -> Path:
        if self._known is None:
            self._known = self._places()
        try:
            return self._folder / self._known[file_name]
        except KeyError:
            raise UserError(f"'{file_name}' is no image of '{self._info.name}': its prediction has no place") from None

    def _places(self) -> Mapping[str, Path]:
        files = [str(record["file_name"]) for record in self._info.records()]
        whole = {file: Path(file).absolute() for file in files}
        root = Path(self._info.image_root).absolute() if self._info.images else None
        if root is None or not all(path.is_relative_to(root) for path in whole.values()):
            root = Path(os.path.commonpath([path.parent for path in whole.values()]))
        below = {file: path.relative_to(root) for file, path in whole.items()}
        # Twice: `x` of x.jpg and x.png. Also a whole name: `x.jpg` of x.jpg.bmp, where x.jpg may keep its suffix.
        taken = Counter([path.with_suffix("") for path in below.values()] + list(below.values()))
        return {
            file: path.with_suffix(".png") if taken[path.with_suffix("")] == 1 else path.with_name(f"{path.name}.png")
            for file, path in below.items()
        }
