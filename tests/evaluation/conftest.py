"""A small dataset on disk whose labels and predictions are drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image


@dataclass
class TinyDataset:
    """Registered under `name`; `records[i]` belongs to `labels[i]` and `predictions[i]` (`[H, W]` int64)."""

    name: str
    records: list[dict[str, Any]]
    labels: list[np.ndarray]
    predictions: list[np.ndarray]
    metadata: dict[str, Any] = field(default_factory=dict)

    def outputs(self) -> list[dict[str, torch.Tensor]]:
        return [{"sem_seg_labels": torch.from_numpy(prediction)} for prediction in self.predictions]


@pytest.fixture
def make_dataset(tmp_path: Path) -> Iterator[Callable[..., TinyDataset]]:
    """Makes and registers datasets; takes them out of the catalogues afterwards."""
    registered: list[str] = []

    def make(*, num_classes: int = 6, num_images: int = 5, ignore: int = 255, seed: int = 0, **extra) -> TinyDataset:
        rng = np.random.default_rng(seed)
        name = f"tiny_{seed}_{len(registered)}"
        root = tmp_path / name
        (root / "images").mkdir(parents=True)
        (root / "annotations").mkdir()
        records, labels, predictions = [], [], []
        for i in range(num_images):
            height, width = int(rng.integers(20, 40)), int(rng.integers(20, 40))
            # Class num_classes - 1 never occurs in the labels but is predicted: the two mIoU rules differ.
            label = rng.integers(0, num_classes - 1, (height, width))
            prediction = np.where(rng.random(label.shape) < 0.5, label, rng.integers(0, num_classes, label.shape))
            label[rng.random(label.shape) < 0.1] = ignore
            label_file = root / "annotations" / f"{i}.png"
            dtype = np.uint8 if max(num_classes, ignore) < 256 else np.uint16
            Image.fromarray(label.astype(dtype)).save(label_file)
            file_name = str(root / "images" / f"{i}.jpg")
            records.append(
                {"file_name": file_name, "sem_seg_file_name": str(label_file), "height": height, "width": width}
            )
            labels.append(label.astype(np.int64))
            predictions.append(prediction.astype(np.int64))
        metadata = {
            "stuff_classes": [f"class {c}" for c in range(num_classes)],
            "ignore_label": ignore,
            "evaluator_type": "sem_seg",
            "image_root": str(root / "images"),
            **extra,
        }
        DatasetCatalog.register(name, lambda: [dict(record) for record in records])
        MetadataCatalog.get(name).set(**metadata)
        registered.append(name)
        return TinyDataset(name, records, labels, predictions, metadata)

    yield make
    for name in registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
