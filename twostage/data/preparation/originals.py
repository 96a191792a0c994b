"""Finds things in an unpacked download, wherever in it `--source` points."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from twostage.errors import UserError


def find_path(source: Path, places: Sequence[str], *, holding: str = "") -> Path | None:
    """The first of `places` that exists below `source`, tried with fewer and fewer of its first parts.

    So "ADEChallengeData2016/annotations/training" is found whether `source` is the folder around ADEChallengeData2016,
    that folder or its annotations/.

    Args:
        holding: only folders with a file of this suffix in them (or, ending in "/**", anywhere below).
    """
    for place in places:
        parts = PurePosixPath(place).parts
        for start in range(len(parts)):
            path = source.joinpath(*parts[start:])
            if path.exists() and (not holding or _holds(path, holding)):
                return path
    return None


def _holds(folder: Path, suffix: str) -> bool:
    if not suffix.endswith("/**"):
        return folder.is_dir() and any(entry.name.endswith(suffix) for entry in os.scandir(folder))
    wanted = suffix.removesuffix("/**")
    return any(name.endswith(wanted) for _, _, names in os.walk(folder, followlinks=True) for name in names)


def read_names(path: Path) -> list[str]:
    """Base names of a list file: one per line, or the first column of "/JPEGImages/x.jpg /SegmentationClassAug/x.png".

    Raises:
        UserError: unreadable or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"list '{path}' can't be read: {error}") from error
    names = [PurePosixPath(line.split()[0]).stem for line in lines if line.strip()]
    if not names:
        raise UserError(f"list '{path}' is empty; unpack the download again")
    return names


def link_into(found: Path | None, target: Path) -> None:
    """Make `target` lead to the folder or file `found` of the download, where nothing is there yet.

    Raises:
        UserError: this file system has no symbolic links.
    """
    if found is None or target.exists() or found.resolve() == target.resolve():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(found.resolve(), target_is_directory=found.is_dir())
    except OSError as error:
        raise UserError(f"can't link '{target}' to '{found}' ({error.strerror}); move or copy it there") from error
