"""Label maps of one's own folder that are colour pictures, or palette pictures whose palette holds the meaning: to class
indices, by the colours in classes.json.

The originals go to `labels_color/` beside `labels/`. All pictures are converted into a hidden folder first, and only then
put in place, so that a colour nobody declared leaves everything as it was and a stopped run goes on.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from twostage.data.catalogue.folders import FolderClasses, read_folder_classes
from twostage.data.catalogue.records import LABEL_SUFFIXES, files_by_key
from twostage.data.images import open_image
from twostage.data.labels import Color, is_color_picture
from twostage.data.preparation.jobs import Report, parallel, write_labels
from twostage.errors import UserError
from twostage.files import write_text

ORIGINALS = "labels_color"
_PARTIAL = ".labels_partial"
_STAMP = "colors.json"
_UNKNOWN = -1
_SHOWN = 8


@dataclasses.dataclass
class UnknownColor:
    """A colour that no class has: pixels and files that hold it, and the first file."""

    pixels: int
    files: int
    first: Path


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """Of one file: whether it was in colours, the colours without a class (pixels of each), why it can't be read."""

    file: Path
    colored: bool = True
    unknown: dict[Color, int] = dataclasses.field(default_factory=dict)
    error: str | None = None


def prepare_folder(folder: Path, *, workers: int = 2, skip_broken: bool = False) -> Report:
    """Turn the colour pictures in `folder/labels` into indices of the classes in classes.json.

    Label maps that are indices already are kept.

    Raises:
        UserError: no colours in the classes file, or two classes of one colour; pictures with other colours (named with file
            and count) or unreadable ones (with `skip_broken` such files are listed, and taken out of labels/).
    """
    classes = read_folder_classes(folder)
    table = color_table(classes, folder)
    labels, partly = folder / "labels", folder / _PARTIAL
    if not labels.is_dir():
        raise UserError(f"dataset folder '{folder}' has no 'labels/'; it needs images/, labels/ and classes.json")
    _same_colors_or_anew(partly, classes)
    bits = np.uint16 if max(classes.ignore_label, len(classes.names) - 1) > 255 else np.uint8
    convert = partial(_convert, labels=labels, target=partly, colors=classes.colors or (), table=table, dtype=bits)
    files = list(files_by_key(labels, LABEL_SUFFIXES).values())
    outcomes = list(parallel(convert, files, workers=workers, title=f"colours of {folder.name}"))
    unknown = _together(outcomes)
    broken = [outcome.error for outcome in outcomes if outcome.error]
    broken += [f"'{o.file}' has {sum(o.unknown.values())} pixels of unknown colours" for o in outcomes if o.unknown]
    if unknown and not skip_broken:
        raise UserError(_unknown_text(unknown, folder))
    if broken and not skip_broken:
        raise UserError(f"{broken[0]}; repair it, or leave such files out by --skip-broken")
    aside = [outcome.file for outcome in outcomes if outcome.error or outcome.unknown]
    written = _put_in_place(folder, aside)
    return Report(written=written, kept=sum(not o.colored and not o.error for o in outcomes), broken=sorted(broken))


def color_table(classes: FolderClasses, folder: Path) -> np.ndarray:
    """int32 `[2^24]`: label of each colour R + 256 G + 65536 B, -1 where nothing has it.

    Raises:
        UserError: the classes file gives no colours, or two classes share one.
    """
    if classes.colors is None:
        raise UserError(
            f"the classes file of '{folder}' gives no colours; write classes.json with a 'color' [R, G, B] for each class, "
            "as in the label pictures"
        )
    table = np.full(2**24, _UNKNOWN, np.int32)
    entries = [*enumerate(classes.colors), *((classes.ignore_label, color) for color in classes.ignore_colors)]
    for label, color in entries:
        code = _code(color)
        if table[code] != _UNKNOWN and table[code] != label:
            raise UserError(
                f"classes file of '{folder}': colour {list(color)} is given twice; labels could not be told apart"
            )
        table[code] = label
    return table


def _code(color: Color) -> int:
    return color[0] + 256 * color[1] + 65536 * color[2]


def _convert(
    file: Path, *, labels: Path, target: Path, colors: Sequence[Color], table: np.ndarray, dtype: type
) -> _Outcome:
    place = (target / file.relative_to(labels)).with_suffix(".png")
    if place.is_file():  # of a run that was stopped
        return _Outcome(file)
    try:
        if not is_color_picture(file, colors):
            return _Outcome(file, colored=False)
        with open_image(file, what="label file") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(np.int32)
    except UserError as error:
        return _Outcome(file, error=str(error))
    codes = pixels @ np.array([1, 256, 65536], np.int32)
    found = table[codes]
    if (found == _UNKNOWN).any():
        values, counts = np.unique(codes[found == _UNKNOWN], return_counts=True)
        colors = [(int(v) % 256, int(v) // 256 % 256, int(v) // 65536) for v in values]
        return _Outcome(file, unknown=dict(zip(colors, counts.tolist(), strict=True)))
    write_labels(place, found.astype(dtype))
    return _Outcome(file)


def _together(outcomes: list[_Outcome]) -> dict[Color, UnknownColor]:
    """All unknown colours, those of most pixels first."""
    found: dict[Color, UnknownColor] = {}
    for outcome in sorted(outcomes, key=lambda entry: entry.file):
        for color, pixels in outcome.unknown.items():
            known = found.setdefault(color, UnknownColor(0, 0, outcome.file))
            known.pixels += pixels
            known.files += 1
    return dict(sorted(found.items(), key=lambda item: -item[1].pixels))


def _unknown_text(unknown: dict[Color, UnknownColor], folder: Path) -> str:
    shown = "; ".join(
        f"{list(color)}: {entry.pixels} pixels in {entry.files} file(s), the first is '{entry.first}'"
        for color, entry in list(unknown.items())[:_SHOWN]
    )
    more = f"; and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    return (
        f"{len(unknown)} colours in '{folder / 'labels'}' belong to no class ({shown}{more}); give them to a class in "
        'classes.json, or list them there as "ignore_colors", or leave these files out by --skip-broken'
    )


def _same_colors_or_anew(partly: Path, classes: FolderClasses) -> None:
    """Forget what a run with other colours has left in the hidden folder."""
    stamp = json.dumps([classes.colors, classes.ignore_colors, classes.ignore_label])
    path = partly / _STAMP
    if not path.is_file() or path.read_text(encoding="utf-8") != stamp:
        shutil.rmtree(partly, ignore_errors=True)
    write_text(path, stamp)


def _put_in_place(folder: Path, aside: list[Path]) -> int:
    """Move the converted label maps into labels/ and the colour pictures (also those `aside`) out of it."""
    labels, partly, originals = folder / "labels", folder / _PARTIAL, folder / ORIGINALS
    finished = list(_files(partly))
    for file in aside:
        _move(file, originals / file.relative_to(labels))
    for file in finished:
        place = labels / file.relative_to(partly)
        for old in (place.with_suffix(suffix) for suffix in LABEL_SUFFIXES):
            # Gone already where a run was stopped between the two moves.
            if old.is_file():
                _move(old, originals / old.relative_to(labels))
        _move(file, place)
    shutil.rmtree(partly)
    return len(finished)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*.png")) if path.is_file())


def _move(file: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
    except OSError as error:
        raise UserError(f"can't move '{file}' to '{target}' ({error.strerror}); make the folder writable") from error
