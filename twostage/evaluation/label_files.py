"""Which label file belongs to an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twostage.data.catalogue import DatasetInfo
from twostage.errors import UserError


class LabelFiles:
    """Which label file belongs to an image: what the record says, else what the dataset's listing says (Detectron2's own
    mapper takes the entry out)."""

    def __init__(self, info: DatasetInfo) -> None:
        self._info = info
        self._known: dict[str, str] | None = None

    def __getitem__(self, record: Mapping[str, Any]) -> str:
        if record.get("sem_seg_file_name"):
            return str(record["sem_seg_file_name"])
        if self._known is None:
            self._known = {r["file_name"]: str(r["sem_seg_file_name"]) for r in self._info.records()}
        try:
            return self._known[record["file_name"]]
        except KeyError:
            raise UserError(f"'{record['file_name']}' is no image of '{self._info.name}': no label is known") from None
