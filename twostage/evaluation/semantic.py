"""Semantic segmentation evaluator on label maps: memory does not grow with classes x height x width.

Reads what a system predicts (`sem_seg_labels [H, W]`, else the argmax of `sem_seg [C, H, W]`), compares it with the
label file on the device the prediction lives on, and keeps only the (prediction, label) pairs that occur.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from twostage.errors import UserError
from twostage.evaluation.confusion import ConfusionMatrix, pair_counts
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.labels import read_label_map, write_label_map
from twostage.evaluation.metrics import SemanticFigures, image_miou, semantic_figures
from twostage.evaluation.results import HEADLINE, text_hash, versions, write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageResult:
    """One evaluated image: its files, and its gt-present mIoU in percent (NaN where all labels are ignored)."""

    file_name: str
    sem_seg_file_name: str
    prediction: str | None
    miou: float


class SemanticSegmentationEvaluator(DatasetEvaluator):
    """Detectron2 evaluator of one registered data set.

    Args:
        dataset_name: registered name; its metadata gives `stuff_classes`, `ignore_label` and, for open-vocabulary
            splits, `seen_classes` and `unseen_classes`.
        output_dir: where `results-<dataset>.json` goes ("": nowhere).
        save_predictions: also write the label maps as PNG under `<output_dir>/predictions-<dataset>/`.
        config_text: the config as yaml, for its hash in the results file.

    Raises (from `process`):
        UserError: label values outside the class list, sizes that differ, unreadable or missing labels.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | Path = "",
        save_predictions: bool = False,
        config_text: str = "",
    ) -> None:
        self.dataset = EvaluatedDataset.from_metadata(dataset_name)
        self._output_dir = Path(output_dir) if output_dir else None
        self._config_text = config_text
        self._predictions_dir: Path | None = None
        if save_predictions:
            if self._output_dir is None:
                raise UserError(f"predictions on '{dataset_name}' can't be saved without a folder; set OUTPUT_DIR")
            self._predictions_dir = self._output_dir / f"predictions-{dataset_name}"
        self._label_files: dict[str, str] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._matrix = ConfusionMatrix(self.dataset.num_classes)
        self.images: list[ImageResult] = []
        self._started = time.perf_counter()

    def process(self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]) -> None:
        """Count a batch: Detectron2's input dicts (`file_name`, optionally `sem_seg_file_name`) and model outputs."""
        for record, output in zip(inputs, outputs, strict=True):
            prediction = self.dataset.to_classes(_predicted_labels(output))
            label_file = self._label_file(record)
            label = torch.from_numpy(read_label_map(label_file)).to(prediction.device)
            if label.shape != prediction.shape:
                raise UserError(
                    f"label '{label_file}' is {_size(label)} but the prediction for '{record['file_name']}' is "
                    f"{_size(prediction)} (width x height); image and label must have the same size"
                )
            codes, counts = self._count(prediction, label, label_file)
            self._matrix.add(codes, counts)
            self.images.append(
                ImageResult(
                    file_name=str(record["file_name"]),
                    sem_seg_file_name=str(label_file),
                    prediction=self._save(str(record["file_name"]), prediction),
                    miou=100 * image_miou(codes, counts, self.dataset.num_classes),
                )
            )

    def _count(self, prediction: torch.Tensor, label: torch.Tensor, label_file: str) -> tuple[np.ndarray, np.ndarray]:
        classes = self.dataset.num_classes
        counted = label != self.dataset.ignore_label
        prediction, label = prediction[counted], label[counted]
        if label.numel() and (label.min() < 0 or label.max() >= classes):
            value = int(label[(label < 0) | (label >= classes)][0])
            raise UserError(
                f"label '{label_file}' holds the value {value}, but '{self.dataset.name}' has {classes} classes "
                f"(0 to {classes - 1}) and ignores {self.dataset.ignore_label}; check class list and label file"
            )
        return pair_counts(prediction, label, classes)

    def _label_file(self, record: Mapping[str, Any]) -> str:
        if record.get("sem_seg_file_name"):
            return str(record["sem_seg_file_name"])
        if self._label_files is None:
            known = DatasetCatalog.get(self.dataset.name)
            self._label_files = {r["file_name"]: r["sem_seg_file_name"] for r in known}
        try:
            return self._label_files[record["file_name"]]
        except KeyError:
            raise UserError(
                f"'{record['file_name']}' is no image of '{self.dataset.name}': no label is known"
            ) from None

    def _save(self, file_name: str, prediction: torch.Tensor) -> str | None:
        if self._predictions_dir is None:
            return None
        root = self.dataset.image_root
        inside = root is not None and Path(file_name).is_relative_to(root)
        name = Path(file_name).relative_to(root) if root is not None and inside else Path(Path(file_name).name)
        path = self._predictions_dir / name.with_suffix(".png")
        write_label_map(path, prediction.cpu().numpy())
        return str(path)

    def evaluate(self) -> OrderedDict[str, OrderedDict[str, float]] | None:
        """Merge all processes and compute the figures (percent); None on other ranks than the first.

        Returns:
            `{"sem_seg": {"mIoU": ..., ...}}`, keys as in `SemanticFigures.as_percent`.
        """
        parts = comm.gather((self._matrix.pairs(), self.images), dst=0)
        if not comm.is_main_process():
            return None
        matrix = ConfusionMatrix.merged(self.dataset.num_classes, [pairs for pairs, _ in parts])
        self._matrix, self.images = matrix, [image for _, images in parts for image in images]
        if not self.images:
            raise UserError(f"data set '{self.dataset.name}' gave no image to evaluate; check its folder")
        figures = semantic_figures(matrix, seen=self.dataset.seen, unseen=self.dataset.unseen)
        results = figures.as_percent(self.dataset.class_names)
        if self._output_dir:
            path = self._output_dir / f"results-{self.dataset.name}.json"
            write_json(path, self._record(figures, results))
            logger.info("Results of %s are in %s", self.dataset.name, path)
        return OrderedDict(sem_seg=results)

    def _record(self, figures: SemanticFigures, results: Mapping[str, float]) -> dict[str, Any]:
        """What the results file holds; figures without a meaning are null."""
        return {
            "dataset": self.dataset.name,
            "num_images": len(self.images),
            "figures": {key: results.get(key) for key in HEADLINE},
            "iou_per_class": [100 * iou for iou in figures.iou.tolist()],
            "label_pixels": figures.label_pixels,
            "class_names": self.dataset.class_names,
            "seen_classes": self.dataset.seen,
            "unseen_classes": self.dataset.unseen,
            "ignore_label": self.dataset.ignore_label,
            "images": [asdict(image) for image in self.images],
            "seconds": round(time.perf_counter() - self._started, 3),
            "config_sha256": text_hash(self._config_text) if self._config_text else None,
            "class_names_sha256": text_hash("\n".join(self.dataset.class_names)),
            "versions": versions(),
        }


def _predicted_labels(output: Mapping[str, Any]) -> torch.Tensor:
    """`[H, W]` int64 from a model's output dict."""
    if "sem_seg_labels" in output:
        return output["sem_seg_labels"].long()
    return output["sem_seg"].argmax(dim=0)


def _size(labels: torch.Tensor) -> str:
    return f"{labels.shape[1]} x {labels.shape[0]}"
