"""The results file of one evaluation: `results-<dataset>.json`, and a table beside it to read."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.protocol import names_of, protocol_of
from twostage.evaluation.results import shown_figures, tables, text_hash, versions, without_nan, write_json
from twostage.files import write_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageResult:
    """One evaluated image: its files, its gt-present mIoU in percent (NaN where all labels are ignored), and its time."""

    file_name: str
    sem_seg_file_name: str
    prediction: str | None
    miou: float
    seconds: float  # reading, model and counting
    files: list[str]  # what the counts depend on,
    files_sha256: str  # and what these held


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one evaluation found.

    Attributes:
        results: task -> figure -> percent.
        skipped: images left out (`file_name`, `reason`).
        subject: hashes that say what was evaluated.
        seconds: from the evaluator's reset to its end.
        continued: images that a stopped evaluation had finished.
        memory: peaks over the processes.
        measured: what the measures keep beside their figures.
    """

    dataset: EvaluatedDataset
    results: Mapping[str, Mapping[str, float]]
    images: Sequence[ImageResult]
    skipped: Sequence[Mapping[str, Any]]
    subject: Mapping[str, Any]
    config_text: str
    seconds: float
    continued: int
    memory: Mapping[str, float]
    measured: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write both files atomically."""
        figures = {key: value for group in self.results.values() for key, value in group.items()}
        notes = self._notes()
        record = {**self._record(figures), "notes": notes, "results": self.results, "subject": self.subject}
        record["sha256"] = _record_hash(without_nan(record))
        name = f"results-{self.dataset.name}"
        write_json(folder / f"{name}.json", record)
        write_text(folder / f"{name}.md", "\n\n".join([tables([(self.dataset.name, figures)]), *notes]) + "\n")
        logger.info("Results of %s are in %s", self.dataset.name, folder / f"{name}.json")
        for note in notes:
            logger.warning("%s", note)
        if self.skipped:
            logger.warning("%d images of %s were skipped (listed there)", len(self.skipped), self.dataset.name)

    def _notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        if any(not math.isnan(image.miou) for image in self.images):
            return []
        return [
            f"no pixel of '{self.dataset.name}' is labelled: all of its label maps hold {self.dataset.ignore_label} (ignored) "
            "only, so that its figures have no meaning; check the label files by `twostage verify`"
        ]

    def _record(self, figures: Mapping[str, float]) -> dict[str, Any]:
        """What the results file holds; figures without a meaning are null."""
        dataset = self.dataset
        return {
            "dataset": dataset.name,
            "num_images": len(self.images),
            "figures": shown_figures(figures),
            "rules": {"mIoU": "gt-present", "mIoU-pred-or-gt": "pred-or-gt"},
            "class_names": dataset.class_names,
            "prompt_names": dataset.prompt_names,
            "names": names_of(dataset.info),
            "class_colors": dataset.info.colors,
            "seen_classes": dataset.seen,
            "unseen_classes": dataset.unseen,
            "ignore_label": dataset.ignore_label,
            "images": [asdict(image) for image in self.images],
            "skipped": sorted(self.skipped, key=lambda entry: entry["file_name"]),
            "seconds": round(self.seconds, 3),
            "seconds_of_images": round(math.fsum(image.seconds for image in self.images), 3),
            "continued_images": self.continued,
            "processes": comm.get_world_size(),
            "memory": self.memory,
            "config": self.config_text or None,
            "config_sha256": text_hash(self.config_text) if self.config_text else None,
            "class_names_sha256": text_hash("\n".join(dataset.class_names)),
            "prompts_sha256": text_hash("\n".join(dataset.prompt_names)),
            "weights_sha256": self.subject.get("weights_sha256"),
            "protocol": protocol_of(self.config_text, dataset),
            "versions": versions(),
            **self.measured,
        }


def read_report(path: Path, subject: Mapping[str, Any]) -> dict[str, Any] | None:
    """The json of an earlier evaluation of `subject`; None without one, or where it is damaged or edited."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("subject") != subject:
        return None
    return record if record.pop("sha256", None) == _record_hash(record) else None


def _record_hash(record: Any) -> str:
    """Tells whether a results file is as it was written."""
    return text_hash(json.dumps(record))


def with_nan(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Figures as they were before JSON, which has no NaN."""
    return {key: math.nan if value is None else value for key, value in figures.items()}
