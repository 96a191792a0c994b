"""Panoptic quality from toybox's files to the results: the ground truth scores 100, a model runs through."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from twostage.api import find_config
from twostage.commands.evaluate import benchmark_config, evaluate_benchmarks, results_page
from twostage.data.labels import read_label_map
from twostage.data.loaders import dataset_records
from twostage.data.segment_maps import read_segment_map
from twostage.data.toybox import dataset, words
from twostage.data.views import dataset_info
from twostage.errors import UserError
from twostage.evaluation.panoptic_quality import PanopticMeasure
from twostage.evaluation.results import PANOPTIC_GROUPS
from twostage.evaluation.semantic import SemanticSegmentationEvaluator

KEYS = {f"{key}{group}" for group in PANOPTIC_GROUPS for key in ("PQ", "SQ", "RQ")}


@pytest.fixture(autouse=True)
def _small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "NUM_TRAIN", 2)
    monkeypatch.setattr(dataset, "NUM_VAL_SEEN", 3)
    monkeypatch.setattr(dataset, "NUM_VAL_OPEN", 5)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))


def figures_of(records: list[dict[str, Any]], change: Any) -> dict[str, float]:
    """PQ figures where `change` makes the prediction from (ids, segments) of the ground truth."""
    evaluator = SemanticSegmentationEvaluator(dataset_info("toybox_val_open"), measures=[PanopticMeasure])
    for record in records:
        labels = torch.from_numpy(read_label_map(record["sem_seg_file_name"]))
        ids, segments = change(read_segment_map(record["pan_seg_file_name"]), record["segments_info"])
        output = {
            "sem_seg_labels": labels.where(labels != 255, 0),
            "panoptic_seg": (torch.from_numpy(ids), segments),
        }
        evaluator.process([record], [output])
    return evaluator.evaluate()["panoptic_seg"]


def test_ground_truth_scores_100() -> None:
    records = dataset_records(dataset_info("toybox_val_open"), panoptic=True)
    assert figures_of(records, lambda ids, segments: (ids, segments)) == dict.fromkeys(sorted(KEYS), 100.0)


def test_wrong_segments_cost_what_they_should() -> None:
    """All things missed: nothing is recognised of things, stuff stays right; half of every thing: no match (IoU 1/2)."""
    records = dataset_records(dataset_info("toybox_val_open"), panoptic=True)

    def without_things(ids: np.ndarray, segments: list[dict]) -> tuple[np.ndarray, list[dict]]:
        return np.where(ids % 1000 == 0, ids, 0), [s for s in segments if s["id"] % 1000 == 0]

    def renamed(ids: np.ndarray, segments: list[dict]) -> tuple[np.ndarray, list[dict]]:
        """Unseen things get the name of a seen one: only segments of unseen classes are lost, in both sets."""
        return ids, [
            {**s, "category_id": 12 if words.CLASSES[s["category_id"]] in words.UNSEEN_CLASSES else s["category_id"]}
            for s in segments
        ]

    missed = figures_of(records, without_things)
    assert missed["PQ_th"] == missed["RQ_th"] == 0.0 and missed["PQ_st"] == 100.0
    wrong = figures_of(records, renamed)
    assert wrong["PQ-unseen"] == 0.0 and wrong["SQ-seen"] > wrong["PQ-seen"] > 50.0


def arguments(opts: list[str], *, config: str = "toybox/san", datasets: list[str]) -> argparse.Namespace:
    return argparse.Namespace(
        config_file=str(find_config(config)), datasets=datasets, name="Small", report=True, resume=False,
        skip_broken=False, skip_missing=False, opts=["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", *opts],
    )  # fmt: skip


def test_a_small_model_runs_through(tmp_path: Path) -> None:
    """tools/evaluate.py on toybox with random weights: results file, table and report hold the figures."""
    args = arguments(
        ["TEST.PANOPTIC", "True", "TEST.PANOPTIC_SCORE", "0.0", "OUTPUT_DIR", str(tmp_path / "out")],
        datasets=["toybox_val_open", "toybox_val_seen"],
    )
    torch.manual_seed(0)
    evaluate_benchmarks(benchmark_config(args), args)
    page = (tmp_path / "out" / "results.md").read_text()
    record = json.loads((tmp_path / "out" / "inference" / "results-toybox_val_open.json").read_text())
    figures = record["results"]["panoptic_seg"]
    assert figures.keys() == KEYS and {key: record["figures"][key] for key in KEYS} == figures
    assert len(record["pq_per_class"]) == 54 and record["thing_classes"] == [*range(12, 36), *range(38, 54)]
    html = (tmp_path / "out" / "report-toybox_val_open.html").read_text()
    for group, name in PANOPTIC_GROUPS.items():
        values = [figures[f"{key}{group}"] for key in ("PQ", "SQ", "RQ")]
        assert f"| toybox_val_open | {name} | {' | '.join(f'{v:.2f}' for v in values)} |" in page
        assert f"<tr><th>{name}</th>{''.join(f'<td>{v:.2f}</td>' for v in values)}</tr>" in html
    assert "| toybox_val_seen | stuff |" in page and "| toybox_val_seen | unseen |" not in page
    # With a threshold that nothing reaches, nothing is recognised.
    args.opts[args.opts.index("0.0")] = "1.0"
    args.report = False
    evaluate_benchmarks(benchmark_config(args), args)
    assert "| toybox_val_open | all | 0.00 | 0.00 | 0.00 |" in (tmp_path / "out" / "results.md").read_text()


def test_missing_labels_are_known_before_anything_is_built(tmp_path: Path) -> None:
    folder = tmp_path / "datasets" / "ADEChallengeData2016"
    for part in ("images", "annotations_detectron2"):
        (folder / part / "validation").mkdir(parents=True)
    args = arguments(["TEST.PANOPTIC", "True", "OUTPUT_DIR", str(tmp_path / "out")], datasets=["A-150"])
    with pytest.raises(UserError, match=r"ade20k_panoptic_val\.json' is missing\); make it by .* prepare ade20k_150"):
        benchmark_config(args)
    args.opts[args.opts.index("True")] = "False"
    benchmark_config(args)


def test_panoptic_figures_stand_beside_published_ones() -> None:
    record = {"figures": {"mIoU": 31.5, "mIoU-pred-or-gt": 31.25, "PQ": 22.123}}
    table = results_page("Ours", {"ade20k_150_val": record}).split("## Panoptic quality beside published figures")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]
    assert rows[0] == ["system", "variant", "trained on", "A-150", "source"] and rows[2][3] == "22.12"
    assert {tuple(row[:2]): row[3] for row in rows[3:]}["FC-CLIP", "ConvNeXt-L"] == "26.8"
    assert not any(row[0] == "SAN" for row in rows)
    assert "Panoptic" not in results_page("Ours", {"ade20k_150_val": {"figures": {"mIoU": 31.5}}})
