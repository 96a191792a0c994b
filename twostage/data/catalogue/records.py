"""Pairs pictures with label maps by their path below the two folders, without suffix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twostage.data.images import IMAGE_SUFFIXES, composed
from twostage.errors import UserError

# 16-bit PNG is ours, TIFF what other repositories write.
LABEL_SUFFIXES = (".png", ".tif", ".tiff")


def files_by_key(
    folder: Path, suffixes: Sequence[str], prefix: str = "", *, others: dict[str, Path] | None = None
) -> dict[str, Path]:
    """Path below `folder` without suffix -> file, folders below it included, sorted.

    Where two suffixes fit the same key, the earlier one of `suffixes` wins, and the other goes into `others`. Keys are
    composed Unicode (NFC), so that names from macOS fit others; hidden files and folders are left out.

    Raises:
        UserError: the folder can't be read.
    """
    rank: dict[str, int] = {}
    found: dict[str, Path] = {}
    for file in _walk(folder):
        name = file.name.lower()
        fitting = [i for i, suffix in enumerate(suffixes) if name.endswith(suffix.lower())]
        if not fitting or not file.name.startswith(prefix):
            continue
        order = fitting[0]
        key = composed(file.relative_to(folder).as_posix()[: -len(suffixes[order])])
        if others is not None and key in found:
            others[key] = max((file, order), (found[key], rank[key]), key=lambda pair: pair[1])[0]
        if order < rank.get(key, len(suffixes)):
            rank[key], found[key] = order, file
    return dict(sorted(found.items()))


def _walk(folder: Path) -> list[Path]:
    def fail(error: OSError) -> None:
        raise UserError(f"folder '{folder}' can't be read ({error.strerror}); check the path, and who may read it")

    # Datasets often lie behind symbolic links.
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent) / name for name in names if not name.startswith(".")]
    return sorted(found)


def list_records(
    images: Path,
    labels: Path,
    *,
    image_suffixes: Sequence[str] = IMAGE_SUFFIXES,
    label_suffixes: Sequence[str] = LABEL_SUFFIXES,
    prefix: str = "",
    dataset: str = "",
    broken: list[str] | None = None,
) -> list[dict[str, Any]]:
    """Records of all label maps and their pictures; pictures without labels are left out (JPEGImages holds all years).

    Args:
        broken: labels without a picture, or with two, are described here and left out; None makes them an error.

    Raises:
        UserError: no label map, or a picture is missing, or two pictures of one name have a label.
    """
    label_files = files_by_key(labels, label_suffixes, prefix)
    doubles: dict[str, Path] = {}
    image_files = files_by_key(images, image_suffixes, prefix, others=doubles)
    if not label_files:
        raise UserError(
            f"dataset '{dataset}' holds no images: '{labels}' has no label map ({', '.join(label_suffixes)}); "
            "put label maps there, or check the path"
        )
    missing = [key for key in label_files if key not in image_files]
    if missing and len(missing) == len(label_files):
        raise UserError(
            f"dataset '{dataset}': no file in '{images}' belongs to a label map in '{labels}' (label '{missing[0]}' has no "
            "picture of the same name); check both folders"
        )
    if missing and broken is None:
        raise UserError(
            f"dataset '{dataset}': {len(missing)} of {len(label_files)} label maps have no picture in '{images}', the first "
            f"is '{label_files[missing[0]]}'; copy the pictures there, or leave these out by --skip-broken"
        )
    if broken is not None:
        broken += [f"label '{label_files[key]}' has no picture in '{images}'" for key in missing]
    unclear = [key for key in label_files if key in doubles]
    said = [
        f"label '{label_files[key]}' has two pictures, '{image_files[key]}' and '{doubles[key]}'" for key in unclear
    ]
    if said and broken is None:
        raise UserError(f"dataset '{dataset}': {said[0]}; take one of them out, or leave these out by --skip-broken")
    if broken is not None:
        broken += said
    return [
        {"file_name": str(image_files[key]), "sem_seg_file_name": str(label)}
        for key, label in label_files.items()
        if key in image_files and key not in doubles
    ]
