"""Mean intersection over union and its relatives."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation.evaluator import DatasetEvaluator
from detectron2.utils.comm import all_gather, is_main_process, synchronize
from detectron2.utils.file_io import PathManager


def load_image_into_numpy_array(filename: str, dtype: type | None = None) -> np.ndarray:
    """An image file, such as a label map, as it is stored."""
    from PIL import Image

    with PathManager.open(filename, "rb") as file:
        return np.array(Image.open(file), dtype=dtype)


class SemSegEvaluator(DatasetEvaluator):
    """Compares `output["sem_seg"]` `[K, H, W]` with the label maps of a registered dataset.

    Metrics, in percent: mIoU, IoU weighted by class frequency, mean and overall pixel accuracy, and IoU and accuracy of
    each class. Classes that no label map holds are NaN and count in no mean.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        sem_seg_loading_fn: Callable[..., np.ndarray] = load_image_into_numpy_array,
        num_classes: int | None = None,
        ignore_label: int | None = None,
    ) -> None:
        """
        Args:
            dataset_name: its metadata has `stuff_classes` and `ignore_label`; its records `sem_seg_file_name`.
            distributed: add up over all processes; the results are on rank 0.
            output_dir: write predictions (COCO's run lengths) and results there.
            sem_seg_loading_fn: from a label map's file name and `dtype=` to an array.
            num_classes, ignore_label: ignored, and the metadata's are taken; accepted because old code passes them.
        """
        self._logger = logging.getLogger(__name__)
        for name, value in (("num_classes", num_classes), ("ignore_label", ignore_label)):
            if value is not None:
                self._logger.warning("SemSegEvaluator(%s=) is ignored; the dataset's metadata decides", name)
        self._distributed = distributed
        self._output_dir = output_dir
        self._load_labels = sem_seg_loading_fn
        self._label_files = {r["file_name"]: r["sem_seg_file_name"] for r in DatasetCatalog.get(dataset_name)}
        metadata = MetadataCatalog.get(dataset_name)
        self._class_names: Sequence[str] = metadata.stuff_classes
        self._num_classes = len(self._class_names)
        self._ignore_label = metadata.ignore_label
        to_contiguous = metadata.get("stuff_dataset_id_to_contiguous_id", {})
        self._dataset_ids = {contiguous: dataset for dataset, contiguous in to_contiguous.items()}
        self.reset()

    def reset(self) -> None:
        size = self._num_classes + 1
        # Rows: predicted, columns: true; the last of each is the ignored label.
        self._confusion = np.zeros((size, size), dtype=np.int64)
        self._predictions: list[dict[str, Any]] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        for record, output in zip(inputs, outputs, strict=True):
            predicted = output["sem_seg"].argmax(dim=0).cpu().numpy().astype(np.int64)
            labels = self._load_labels(self._label_files[record["file_name"]], dtype=np.int64)
            labels = np.where(labels == self._ignore_label, self._num_classes, labels)
            size = self._num_classes + 1
            pairs = np.bincount(size * predicted.ravel() + labels.ravel(), minlength=size**2)
            self._confusion += pairs.reshape(size, size)
            if self._output_dir:
                self._predictions += self._encode(predicted, record["file_name"])

    def _encode(self, predicted: np.ndarray, file_name: str) -> list[dict[str, Any]]:
        from pycocotools import mask as coco_mask

        entries = []
        for label in np.unique(predicted).tolist():
            runs = coco_mask.encode(np.asfortranarray(predicted == label, dtype=np.uint8))
            entries.append(
                {
                    "file_name": file_name,
                    "category_id": self._dataset_ids.get(label, label),
                    "segmentation": {"size": runs["size"], "counts": runs["counts"].decode("ascii")},
                }
            )
        return entries

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """`{"sem_seg": {"mIoU": ..., "fwIoU": ..., "IoU-<class>": ..., "mACC": ..., "pACC": ..., "ACC-<class>": ...}}`."""
        if self._distributed:
            synchronize()
            self._confusion = np.sum(all_gather(self._confusion), axis=0)
            self._predictions = list(itertools.chain(*all_gather(self._predictions)))
            if not is_main_process():
                return None
        results = {"sem_seg": self._metrics()}
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, "sem_seg_predictions.json"), "w") as file:
                json.dump(self._predictions, file)
            with PathManager.open(os.path.join(self._output_dir, "sem_seg_evaluation.pth"), "wb") as file:
                torch.save(results["sem_seg"], file)
        self._logger.info(results)
        return OrderedDict(results)

    def _metrics(self) -> dict[str, float]:
        # Predictions on ignored pixels do not count.
        known = self._confusion[:-1, :-1].astype(float)
        hits, true, predicted = known.diagonal(), known.sum(axis=0), known.sum(axis=1)
        present = true > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            iou = np.where(present, hits / (true + predicted - hits), np.nan) * 100
            accuracy = np.where(present, hits / true, np.nan) * 100
        frequency = true[present] / true.sum()
        names = self._class_names
        return OrderedDict(
            [
                ("mIoU", float(iou[present].mean())),
                ("fwIoU", float((iou[present] * frequency).sum())),
                *((f"IoU-{name}", float(value)) for name, value in zip(names, iou, strict=True)),
                ("mACC", float(accuracy[present].mean())),
                ("pACC", float(100 * hits.sum() / true.sum())),
                *((f"ACC-{name}", float(value)) for name, value in zip(names, accuracy, strict=True)),
            ]
        )
