"""YOLO's segmentation labels (Ultralytics): a text file per picture, a line per polygon, `class x y x y ...` on 0..1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import yaml

from twostage.adapters.coco_panoptic import refuse_to_replace
from twostage.adapters.polygons import covered, simple_polygons
from twostage.errors import UserError
from twostage.files import write_text
from twostage.results.segmentation import Segmentation
from twostage.words import class_name

# Where in its pixel a corner lies: readers cut fractions off (Ultralytics) or round them (supervision).
_INSIDE = 0.25
# Corners more, in the same pixel, of what has too few for a polygon.
_MORE = np.array([[0.2, 0.0], [0.2, 0.2]])


def to_yolo(result: Segmentation) -> str:
    """The lines of one picture; a name in several parts has a line per part, holes are cut open.

    Corners are pixels of the mask's border, as readers draw them.
    """
    height, width = result.labels.shape
    # As many digits as put a corner back into its pixel.
    digits = 2 + math.ceil(math.log10(max(height, width)))
    lines = []
    for name in result.areas():
        index = result.names.index(name)
        for ring in simple_polygons(result.mask(name)):
            corners = ring + _INSIDE
            if len(corners) < 3:
                corners = np.concatenate([corners, corners[-1] + _MORE])
            numbers = (corners / (width, height)).round(digits).flatten()
            lines.append(f"{index} {' '.join(f'{number:.{digits}f}' for number in numbers)}\n")
    return "".join(lines)


def from_yolo(text: str, size: tuple[int, int]) -> np.ndarray:
    """Labels int `[H, W]`, -1 for none; where polygons overlap the later line counts.

    Raises:
        UserError: a line that is none.
    """
    height, width = size
    labels = np.full(size, -1)
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            index, *numbers = line.split()
            # Ends of pictures are no pixels: a polygon of somebody else's may have corners there.
            ring = np.minimum(np.array(numbers, float).reshape(-1, 2) * (width, height), (width - 1, height - 1))
            labels[covered([ring], size)] = int(index)
        except ValueError as error:
            raise UserError(
                f"line {number} is no polygon of YOLO ({error}); it is a class and pairs of x and y"
            ) from error
    return labels


def write_yolo(results: Iterable[tuple[str, Segmentation]], folder: Path, names: Sequence[str]) -> list[Path]:
    """Write `labels/<picture>.txt` for each picture's file name and result, and last `data.yaml` with the names.

    Raises:
        UserError: a file is there already, or a result has other names.
    """
    paths = [folder / "data.yaml"]
    refuse_to_replace(paths[0])
    for picture, result in results:
        if _plain(result.names) != _plain(names):
            raise UserError(
                f"'{picture}' was segmented into other names than those given; lines hold their numbers alone"
            )
        paths.append(folder / "labels" / f"{Path(picture).stem}.txt")
        refuse_to_replace(paths[-1])
        write_text(paths[-1], to_yolo(result), durable=False)
    # Without "path", which Ultralytics would look for below the folder it runs in: so it is this file's own.
    content = {"train": "images", "val": "images", "names": dict(enumerate(names))}
    write_text(paths[0], yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return paths


def _plain(names: Sequence[str]) -> list[str]:
    """As a vocabulary spells them: "sofa,couch" is "sofa, couch"."""
    return [class_name(name, source="names") for name in names]
