"""The evaluation loop and the semantic segmentation metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch import nn

# "never" occurs in predictions only.
CLASSES = ["sky", "cat", "never"]
LABELS = np.array([[0, 0, 1, 255], [0, 1, 1, 255]], np.uint8)
PREDICTED = np.array([[0, 1, 1, 0], [0, 1, 2, 2]])


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[str]:
    Image.fromarray(LABELS).save(tmp_path / "label.png")
    DatasetCatalog.register("d2eval", lambda: [{"file_name": "a", "sem_seg_file_name": str(tmp_path / "label.png")}])
    MetadataCatalog.get("d2eval").set(stuff_classes=CLASSES, ignore_label=255)
    yield "d2eval"
    DatasetCatalog.remove("d2eval")
    MetadataCatalog.remove("d2eval")


def test_metrics_in_closed_form(dataset: str, tmp_path: Path) -> None:
    evaluator = SemSegEvaluator(dataset, distributed=False, output_dir=str(tmp_path / "out"))
    evaluator.reset()
    scores = torch.nn.functional.one_hot(torch.from_numpy(PREDICTED), 3).permute(2, 0, 1).float()
    evaluator.process([{"file_name": "a"}], [{"sem_seg": scores}])
    results = evaluator.evaluate()["sem_seg"]
    # sky: 2 of 3 found, nothing wrongly; cat: 2 of 3 found, one pixel of sky taken for it.
    expected = {
        "mIoU": 100 * (2 / 3 + 2 / 4) / 2,
        "fwIoU": 100 * (2 / 3 + 2 / 4) / 2,
        "IoU-sky": 100 * 2 / 3,
        "IoU-cat": 50,
        "mACC": 100 * 2 / 3,
        "pACC": 100 * 4 / 6,
        "ACC-sky": 100 * 2 / 3,
        "ACC-cat": 100 * 2 / 3,
    }
    assert {name: float(results[name]) for name in expected} == pytest.approx(expected)
    assert np.isnan(results["IoU-never"]) and np.isnan(results["ACC-never"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "sem_seg_predictions.json",
        "sem_seg_evaluation.pth",
    }
    evaluator.reset()
    evaluator.process([{"file_name": "a"}], [{"sem_seg": -scores}])
    assert evaluator.evaluate()["sem_seg"]["pACC"] < 60


class Fixed(DatasetEvaluator):
    def __init__(self, results: dict[str, Any] | None) -> None:
        self.results, self.seen = results, []

    def process(self, inputs: Any, outputs: Any) -> None:
        self.seen.append((inputs, outputs))

    def evaluate(self) -> dict[str, Any] | None:
        return self.results


def test_inference_loop() -> None:
    class Double(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training and not torch.is_grad_enabled()
            return 2 * x

    model, first, second = Double().train(), Fixed({"a": {"x": 1}}), Fixed({"b": {"y": 2}})
    results = inference_on_dataset(model, [torch.tensor(1), torch.tensor(2)], [first, second])
    assert results == {"a": {"x": 1}, "b": {"y": 2}} and model.training
    assert first.seen == second.seen == [(1, 2), (2, 4)]
    assert inference_on_dataset(model, [torch.tensor(1)], None) == {}
    assert inference_on_dataset(lambda x: x, [1], Fixed(None)) == {}
    with pytest.raises(AssertionError):
        DatasetEvaluators([first, Fixed({"a": {}})]).evaluate()


def test_csv_lines(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        print_csv_format({"sem_seg": {"mIoU": 12.34567, "IoU-cat": 1.0, "pACC": 50.0}})
    assert [record.getMessage() for record in caplog.records] == [
        "copypaste: Task: sem_seg",
        "copypaste: mIoU,pACC",
        "copypaste: 12.3457,50.0000",
    ]
    assert flatten_results_dict({"a": {"b": {"c": 1}}, "d": 2}) == {"a/b/c": 1, "d": 2}


def test_predictor() -> None:
    class EchoArchitecture(nn.Module):
        def __init__(self, cfg: Any) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return batch

    if "EchoArchitecture" not in META_ARCH_REGISTRY:
        META_ARCH_REGISTRY.register(EchoArchitecture)
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", "EchoArchitecture"
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST = "RGB", 20
    bgr = np.full((10, 15, 3), (1, 2, 3), np.uint8)
    output = DefaultPredictor(cfg)(bgr)
    assert (output["height"], output["width"]) == (10, 15)
    assert output["image"].shape == (3, 20, 30) and output["image"].dtype == torch.float32
    assert output["image"][:, 0, 0].tolist() == [3, 2, 1]
