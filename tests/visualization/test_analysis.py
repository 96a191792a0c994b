"""The report of an evaluation shows the error split, the oracles, the confusions and the errors' places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from twostage.data.labels import write_label_map
from twostage.data.views import dataset_info
from twostage.evaluation.oracles import OracleMeasure
from twostage.evaluation.semantic import SemanticSegmentationEvaluator
from twostage.visualization.analysis import (
    CLASSIFICATION_COLOR,
    MASK_COLOR,
    confusion_groups,
    error_analysis,
    error_picture,
    write_evaluation_report,
)

NAMES = ["grass", "sand", "blue star", "red star"]


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """Half grass, half blue star (unseen): the star is taken for sand, and its left border lies 4 of 40 pixels too far."""
    label = np.zeros((20, 40), np.int64)
    label[:, 20:] = 2
    label[:2] = 255
    prediction = np.zeros_like(label)
    prediction[:, 24:] = 1
    Image.new("RGB", (40, 20), (10, 200, 10)).save(tmp_path / "a.png")
    write_label_map(tmp_path / "a_label.png", label)
    entry = {"file_name": str(tmp_path / "a.png"), "sem_seg_file_name": str(tmp_path / "a_label.png")}
    name = "analysed"
    DatasetCatalog.register(name, lambda: [entry])
    MetadataCatalog.get(name).set(
        stuff_classes=NAMES, ignore_label=255, evaluator_type="sem_seg", seen_classes=[0, 1], unseen_classes=[2, 3]
    )
    evaluator = SemanticSegmentationEvaluator(
        dataset_info(name),
        output_dir=tmp_path,
        save_predictions=True,
        measures=[OracleMeasure],
        config_text="SEED: 1\n",
    )
    evaluator.process([entry], [{"sem_seg_labels": torch.from_numpy(prediction)}])
    evaluator.evaluate()
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    return json.loads((tmp_path / f"results-{name}.json").read_text())


def test_parts_of_the_page(record: dict[str, Any], tmp_path: Path) -> None:
    analysis = error_analysis(record, name="Ours")
    assert analysis is not None
    assert (analysis.mask, analysis.classification) == (10.0, 40.0)
    assert [row.name for row in analysis.oracles] == [
        "Ours", "predicted regions, named by the ground truth", "regions of the ground truth, named by the prediction"
    ]  # fmt: skip
    assert analysis.oracles[1].figures["pACC"] == pytest.approx(90.0)
    groups = confusion_groups(record)
    (pair,) = groups["Unseen classes taken for seen ones"][:1]
    assert (pair.label, pair.prediction, pair.unseen) == ("blue star", "sand", (True, False))
    assert (pair.share, pair.area) == (80.0, 40.0)
    assert [(p.label, p.prediction) for p in groups["All classes"]] == [("blue star", "sand"), ("blue star", "grass")]
    write_evaluation_report(tmp_path / "report.html", record, name="Ours")
    page = (tmp_path / "report.html").read_text()
    for shown in (
        "Ours on analysed",
        "mIoU 41.7",
        "80\u00a0% have the wrong name",
        "classification error <b>40.0 %</b>",
    ):
        assert shown in page, shown
    assert page.count("data:image/webp;base64") == 4 and "SEED: 1" in page


def test_without_oracles_or_split(record: dict[str, Any]) -> None:
    assert error_analysis({**record, "errors": None}, name="Ours") is None
    plain = confusion_groups({**record, "unseen_classes": [], "seen_classes": []})
    assert list(plain) == ["All classes"]


def test_colours_of_errors() -> None:
    """Two regions of one wrong name: one is named by its majority, its minority keeps the wrong shape."""
    label, prediction = np.zeros((2, 10), np.int64), np.full((2, 10), 3)
    label[:, :2] = 1
    valid = np.ones_like(label, bool)
    valid[0, 9] = False
    picture = error_picture(np.full((2, 10, 3), 100, np.uint8), prediction, label, valid)
    factor = picture.shape[0] // 2
    assert tuple(picture[factor // 2, factor // 2]) == MASK_COLOR
    assert tuple(picture[factor // 2, 5 * factor]) == CLASSIFICATION_COLOR
    assert tuple(picture[factor // 2, 9 * factor + factor // 2]) == (255, 255, 255)
    right = error_picture(np.full((2, 10, 3), 100, np.uint8), label, label, valid)
    assert tuple(right[0, 0]) == (185, 185, 185)
