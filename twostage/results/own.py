"""Whether a file is a result that twostage has written, so that it may be written anew; nobody else's is."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from twostage.data.images import is_own_output
from twostage.errors import UserError

# GDAL's XML of tags, as TIFF holds it.
_GDAL_METADATA = 42112
_COCO = b'{"info": {"description": "twostage"}'
_ROW = b'{"frame": 0, "seconds": '


def is_own_result(path: Path) -> bool:
    """By what it holds: pictures by their mark, json and rows by how they begin, videos by the rows beside them."""
    judge = _JUDGES.get(path.suffix.lower())
    try:
        return judge is not None and path.is_file() and judge(path)
    except Exception:  # Pillow and zipfile have many; whatever it is, it is not ours
        return False


def replaceable(files: Sequence[Path], is_own: Callable[[Path], bool] = is_own_result) -> list[Path]:
    """Those of `files` that are there, to be written anew.

    Raises:
        UserError: one of them is somebody else's.
    """
    there = [path for path in files if path.exists()]
    for path in there:
        if not is_own(path):
            raise UserError(f"'{path}' would be replaced, and twostage has not written it; choose another --output")
    return there


def _is_own_json(path: Path) -> bool:
    # A list of segments lies beside their picture.
    return _begins(path, _COCO) or (_begins(path, b"[") and is_own_output(path.with_suffix(".png")))


def _is_own_table(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return sorted(archive.namelist()) == ["labels.npy", "names.npy"]


def _is_own_rows(path: Path) -> bool:
    return _begins(path, _ROW)


def _is_own_video(path: Path) -> bool:
    return _is_own_rows(path.with_name("rows.jsonl"))


def _is_own_map(path: Path) -> bool:
    with Image.open(path) as picture:
        return '<Item name="twostage">labels</Item>' in str(picture.getexif().get(_GDAL_METADATA, ""))


def _begins(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


_JUDGES: dict[str, Callable[[Path], bool]] = {
    ".png": is_own_output,
    ".json": _is_own_json,
    ".jsonl": _is_own_rows,
    ".npz": _is_own_table,
    ".mkv": _is_own_video,
    ".mp4": _is_own_video,
    ".tif": _is_own_map,
    ".tiff": _is_own_map,
}
