"""Which label file belongs to an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.data import DatasetCatalog

from twostage.errors import UserError


class LabelFiles:
    """Which label file belongs to an image: what the record says, else what the catalogue knows (Detectron2's own mapper
    takes the entry out)."""

    def __init__(self, dataset_name: str) -> None:
        self._dataset_name = dataset_name
        self._known: dict[str, str] | None = None

    def __getitem__(self, record: Mapping[str, Any]) -> str:
        if record.get("sem_seg_file_name"):
            return str(record["sem_seg_file_name"])
        if self._known is None:
            records = DatasetCatalog.get(self._dataset_name)
            self._known = {r["file_name"]: str(r["sem_seg_file_name"]) for r in records}
        try:
            return self._known[record["file_name"]]
        except KeyError:
            raise UserError(
                f"'{record['file_name']}' is no image of '{self._dataset_name}': no label is known"
            ) from None
