"""Where the panoptic labels of a split lie, and how they join its pictures."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twostage.data.images import composed
from twostage.data.segment_maps import read_panoptic_json
from twostage.errors import UserError
from twostage.machine import datasets_root

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PanopticLabels:
    """Panoptic labels of one split (COCO's format, see `twostage.data.segment_maps`).

    Attributes:
        folders: of the PNGs, under the datasets root; ours first, then where published repositories keep them.
        files: the json, likewise.
        category_ids: the n-th is the `category_id` of class n in the json.
        left_out: further `category_id`s of the json, of classes that the set does not have.
        suffix: what a PNG's name has after the name of its picture.
        ensure: called before the files are looked for; toybox writes them itself.
    """

    folders: tuple[str, ...]
    files: tuple[str, ...]
    category_ids: tuple[int, ...]
    left_out: tuple[int, ...] = ()
    suffix: str = ".png"
    ensure: Callable[[], object] | None = None

    @property
    def folder(self) -> Path:
        """The first folder that exists, else ours."""
        return _first(self.folders)

    @property
    def file(self) -> Path:
        """The first json that exists, else ours."""
        return _first(self.files)

    def of_classes(self, classes: Sequence[int]) -> PanopticLabels:
        """The same for a set that has only some of the classes, renumbered in this order."""
        ids = tuple(self.category_ids[index] for index in classes)
        return dataclasses.replace(self, category_ids=ids, left_out=tuple(i for i in self.category_ids if i not in ids))

    def check(self, dataset: str, cure: str) -> None:
        """See that the labels are there.

        Raises:
            UserError: folder or json are missing; says how to get them, the `cure`.
        """
        if self.ensure is not None:
            self.ensure()
        missing = next((path for path in (self.file, self.folder) if not path.exists()), None)
        if missing is not None:
            raise UserError(
                f"dataset '{dataset}': its panoptic labels are not there ('{missing}' is missing); {cure}, "
                "or set TEST.PANOPTIC False and INPUT.TARGET_MASKS class"
            )

    def add_to(
        self, records: Sequence[Record], *, image_suffixes: Sequence[str], broken: list[str] | None = None
    ) -> list[Record]:
        """The records with `pan_seg_file_name` and `segments_info`, whose `category_id` are classes (None of those left out).

        Args:
            broken: pictures without panoptic labels are described here and left out; None makes them an error.

        Raises:
            UserError: the json is broken, names a category that no class has, or lacks a picture.
        """
        path, folder = self.file, self.folder
        classes: dict[int, int | None] = dict.fromkeys(self.left_out)
        classes |= {category: index for index, category in enumerate(self.category_ids)}
        known = {
            composed(entry["file_name"]).removesuffix(self.suffix): entry
            for entry in read_panoptic_json(path)["annotations"]
        }
        found = []
        for record in records:
            entry = known.get(composed(_stem(record["file_name"], image_suffixes)))
            if entry is not None:
                segments = [_with_class(segment, classes, path) for segment in entry["segments_info"]]
                name = str(_as_written(folder, entry["file_name"]))
                found.append({**record, "pan_seg_file_name": name, "segments_info": segments})
                continue
            reason = f"picture '{record['file_name']}' has no panoptic label in '{path}'"
            if broken is None:
                raise UserError(f"{reason}; add it, or leave such pictures out by --skip-broken")
            broken.append(reason)
        return found


def _with_class(segment: dict[str, Any], classes: dict[int, int | None], path: Path) -> dict[str, Any]:
    if segment.get("category_id") not in classes or "id" not in segment:
        raise UserError(
            f"panoptic json '{path}' has a segment of category {segment.get('category_id')!r}, which is none of the "
            f"{len(classes)} classes; is it of another dataset, or made with other ids (trainIds)?"
        )
    return {**segment, "category_id": classes[segment["category_id"]]}


def _stem(file_name: str, suffixes: Sequence[str]) -> str:
    """The name of a picture without folders and suffix."""
    name = Path(file_name).name
    suffix = next((suffix for suffix in suffixes if name.lower().endswith(suffix.lower())), "")
    return name[: len(name) - len(suffix)]


def _as_written(folder: Path, name: str) -> Path:
    """The file `name`, whose letters may be composed on disk and decomposed in the json, or the other way round."""
    forms = [folder / name, *(folder / unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]
    return next((path for path in forms if path.exists()), forms[0])


def _first(places: Sequence[str]) -> Path:
    paths = [datasets_root() / place for place in places]
    return next((path for path in paths if path.exists()), paths[0])
