"""Panoptic quality against an independent computation segment by segment, closed forms, and the evaluator."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from twostage.data.segment_maps import read_segment_map, segment_map_to_rgb
from twostage.data.views import dataset_info
from twostage.errors import UserError
from twostage.evaluation.panoptic_quality import PanopticMeasure, match_segments, quality
from twostage.evaluation.semantic import SemanticSegmentationEvaluator

CLASSES = 5


def segments(rng: np.random.Generator, height: int, width: int, count: int, *, crowd: bool) -> tuple:
    """A random map of rectangles (id 0 = void between them) and its segments; ids are large, as in COCO's files."""
    ids = np.zeros((height, width), np.int64)
    names = rng.choice(2**24 - 1, count, replace=False) + 1
    for name in names:
        y, x = rng.integers(0, height - 6), rng.integers(0, width - 6)
        ids[y : y + rng.integers(4, 14), x : x + rng.integers(4, 14)] = name
    info = [
        {"id": int(name), "category_id": int(rng.integers(CLASSES)), "iscrowd": 0}
        for name in names
        if (ids == name).any()
    ]
    # panopticapi knows one crowd per class and image.
    for c in range(CLASSES if crowd else 0):
        of_class = [s for s in info if s["category_id"] == c]
        if len(of_class) > 1:
            of_class[0]["iscrowd"] = 1
    return ids, info


def slow_quality(images: list[tuple]) -> dict[str, list[float]]:
    """The published rules on boolean masks, every pair of segments."""
    iou_sum, hits, false, missed = ([0.0] * CLASSES for _ in range(4))
    for predicted_ids, predicted, label_ids, labelled in images:
        void = label_ids == 0
        used_predictions, used_labels = set(), set()
        for g, p in product(labelled, predicted):
            if g["iscrowd"] or g["category_id"] != p["category_id"]:
                continue
            in_label, in_prediction = label_ids == g["id"], predicted_ids == p["id"]
            union = (in_label | (in_prediction & ~void)).sum()
            iou = (in_label & in_prediction).sum() / union
            if iou > 0.5:
                hits[g["category_id"]] += 1
                iou_sum[g["category_id"]] += iou
                used_predictions.add(p["id"])
                used_labels.add(g["id"])
        for g in labelled:
            if g["id"] not in used_labels and not g["iscrowd"]:
                missed[g["category_id"]] += 1
        for p in predicted:
            if p["id"] in used_predictions:
                continue
            excused = void.copy()
            for g in labelled:
                if g["iscrowd"] and g["category_id"] == p["category_id"]:
                    excused |= label_ids == g["id"]
            in_prediction = predicted_ids == p["id"]
            if (excused & in_prediction).sum() / in_prediction.sum() <= 0.5:
                false[p["category_id"]] += 1
    weights = [h + f / 2 + m / 2 for h, f, m in zip(hits, false, missed, strict=True)]
    return {
        "PQ": [s / w if w else float("nan") for s, w in zip(iou_sum, weights, strict=True)],
        "SQ": [s / max(h, 1) if w else float("nan") for s, h, w in zip(iou_sum, hits, weights, strict=True)],
        "RQ": [h / w if w else float("nan") for h, w in zip(hits, weights, strict=True)],
    }


def make_images(seed: int, *, count: int = 12, crowd: bool = True) -> list[tuple]:
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        label_ids, labelled = segments(rng, 40, 50, 9, crowd=crowd)
        # Predictions: labels shifted and partly renamed, with some segments of their own.
        predicted_ids = np.roll(label_ids, rng.integers(-2, 3, 2), axis=(0, 1))
        predicted = [
            {"id": s["id"], "category_id": s["category_id"] if rng.random() < 0.8 else int(rng.integers(CLASSES))}
            for s in labelled
            if (predicted_ids == s["id"]).any()
        ]
        own = int(rng.integers(2**24, 2**25))
        predicted_ids[:6, :9] = own
        predicted.append({"id": own, "category_id": int(rng.integers(CLASSES))})
        predicted = [s for s in predicted if (predicted_ids == s["id"]).any()]
        images.append((predicted_ids, predicted, label_ids, labelled))
    return images


def merged(images: list[tuple]) -> dict[str, np.ndarray]:
    parts = [match_segments(*image) for image in images]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


@pytest.mark.parametrize("seed", range(4))
def test_equals_slow_computation(seed: int) -> None:
    images = make_images(seed)
    counts = merged(images)
    assert counts["tp"].size > 10 and counts["fp"].size > 3 and counts["fn"].size > 3
    expected = slow_quality(images)
    for key, values in quality(counts, CLASSES).items():
        assert values == pytest.approx(expected[key], abs=1e-12, nan_ok=True), key
    assert any(s["iscrowd"] for *_, labelled in images for s in labelled)


def test_closed_form() -> None:
    """Class 0: IoU 3/4 matched. Class 1: half overlap is no match (IoU 1/3), one miss and one false segment."""
    label, prediction = np.zeros((2, 4, 10), np.int64)
    label[0, :4], prediction[0, :3] = 1, 7
    label[1, :4], prediction[1, 2:6] = 2, 8
    label[0, 4:], label[1, 4:] = 3, 3
    known = [{"id": i, "category_id": c} for i, c in ((1, 0), (2, 1), (3, 2))]
    found = [{"id": 7, "category_id": 0}, {"id": 8, "category_id": 1}]
    values = quality(match_segments(prediction, found, label, known), 4)
    assert values["PQ"][:3].tolist() == [0.75, 0.0, 0.0] and np.isnan(values["PQ"][3])
    assert values["SQ"][0] == 0.75 and values["RQ"][:2].tolist() == [1.0, 0.0]


def test_void_is_left_out_and_excuses() -> None:
    label, prediction = np.zeros((2, 2, 10), np.int64)
    label[0, :5] = 1
    prediction[0] = 4  # half of it is void: IoU 1, not 1/2
    prediction[1, :2] = 5  # all void: not false
    counts = match_segments(
        prediction, [{"id": i, "category_id": 0} for i in (4, 5)], label, [{"id": 1, "category_id": 0}]
    )
    assert counts["iou"].tolist() == [1.0] and counts["fp"].size == counts["fn"].size == 0


def test_ids_without_an_entry() -> None:
    with pytest.raises(UserError, match="the prediction's segment map holds id 3"):
        match_segments(np.full((2, 2), 3), [], np.zeros((2, 2), np.int64), [])


def test_segment_picture_round_trip(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 2**24, (5, 6))
    Image.fromarray(segment_map_to_rgb(ids)).save(tmp_path / "a.png")
    assert np.array_equal(read_segment_map(tmp_path / "a.png"), ids)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"b\.png' is of mode L"):
        read_segment_map(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"c\.png' does not exist"):
        read_segment_map(tmp_path / "c.png")


def test_evaluator(make_dataset, tmp_path: Path) -> None:
    """Things, stuff, seen and unseen means of the whole, in the results and their file; order does not matter."""
    images = make_images(9, count=5)
    dataset = make_dataset(num_classes=CLASSES, seen_classes=[0, 1, 2], unseen_classes=[3, 4], thing_ids=[1, 3])
    outputs = []
    for record, output, (predicted_ids, predicted, label_ids, labelled) in zip(
        dataset.records, dataset.outputs(), images, strict=True
    ):
        record["pan_seg_file_name"] = record["sem_seg_file_name"].replace(".png", "_panoptic.png")
        record["segments_info"] = labelled
        Image.fromarray(segment_map_to_rgb(label_ids)).save(record["pan_seg_file_name"])
        outputs.append({**output, "panoptic_seg": (torch.from_numpy(predicted_ids), predicted)})
    expected = slow_quality(images)
    results = []
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        evaluator = SemanticSegmentationEvaluator(
            dataset_info(dataset.name), output_dir=tmp_path, measures=[PanopticMeasure]
        )
        for i in order:
            evaluator.process([dataset.records[i]], [outputs[i]])
        results.append(evaluator.evaluate()["panoptic_seg"])
    assert results[0] == results[1]
    for suffix, classes in {
        "": range(5),
        "_th": [1, 3],
        "_st": [0, 2, 4],
        "-seen": [0, 1, 2],
        "-unseen": [3, 4],
    }.items():
        for key, values in expected.items():
            assert results[0][key + suffix] == pytest.approx(100 * np.nanmean([values[c] for c in classes]), abs=1e-10)
    record = json.loads((tmp_path / f"results-{dataset.name}.json").read_text())
    assert record["figures"]["PQ"] == results[0]["PQ"]
    assert record["pq_per_class"] == pytest.approx([100 * value for value in expected["PQ"]])


def test_prompts_that_share_a_class(make_dataset) -> None:
    dataset = make_dataset(num_classes=2)
    MetadataCatalog.get(dataset.name).set(prompt_classes=["a", "b", "c"], prompt_to_class=[0, 1, 1])
    evaluator = SemanticSegmentationEvaluator(dataset_info(dataset.name), measures=[PanopticMeasure])
    measure = evaluator.measures[1]
    _, found = measure._predicted({"panoptic_seg": (torch.ones(2, 2), [{"id": 1, "category_id": 2}])})
    assert found == [{"id": 1, "category_id": 1}]


def test_without_segments(make_dataset) -> None:
    dataset = make_dataset()
    evaluator = SemanticSegmentationEvaluator(dataset_info(dataset.name), measures=[PanopticMeasure])
    with pytest.raises(UserError, match=r"gives no panoptic segments .* TEST\.PANOPTIC False"):
        evaluator.process(dataset.records[:1], dataset.outputs()[:1])
    ids = torch.zeros(dataset.predictions[0].shape, dtype=torch.int32)
    with pytest.raises(UserError, match="has no panoptic labels"):
        evaluator.process(dataset.records[:1], [{**dataset.outputs()[0], "panoptic_seg": (ids, [])}])


def test_labels_that_contradict_themselves(make_dataset) -> None:
    """A json that lists a segment which the PNG lacks: refused, or left out where broken files are."""
    dataset = make_dataset(num_classes=2)
    record, shape = dataset.records[0], dataset.predictions[0].shape
    output = {**dataset.outputs()[0], "panoptic_seg": (torch.zeros(shape, dtype=torch.int32), [])}
    record["pan_seg_file_name"] = record["sem_seg_file_name"].replace(".png", "_panoptic.png")
    Image.fromarray(segment_map_to_rgb(np.full(shape, 3))).save(record["pan_seg_file_name"])
    record["segments_info"] = [{"id": 3, "category_id": 0}, {"id": 4, "category_id": 1}]
    info = dataset_info(dataset.name)
    with pytest.raises(UserError, match=r"_panoptic\.png' has no pixel of segment 4, which its json lists"):
        SemanticSegmentationEvaluator(info, measures=[PanopticMeasure]).process([record], [output])
    evaluator = SemanticSegmentationEvaluator(info, measures=[PanopticMeasure], skip_broken=True)
    evaluator.process([record], [output])
    assert [entry["reason"].endswith("--skip-broken") for entry in evaluator.skipped] == [True]
    with pytest.raises(UserError, match=r"gave no image to evaluate.* \(1 left out: panoptic label .* segment 4"):
        evaluator.evaluate()
