"""The evaluator on a dataset on disk: figures, files, merging over processes, bad input."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from twostage.config import default_config
from twostage.data.labels import read_label_map, write_label_map
from twostage.data.views import dataset_info
from twostage.errors import UserError
from twostage.evaluation.boundary import boundary_counts, boundary_iou
from twostage.evaluation.building import build_evaluator
from twostage.evaluation.measures import BoundaryMeasure
from twostage.evaluation.oracles import OracleMeasure
from twostage.evaluation.semantic import SemanticSegmentationEvaluator
from twostage.vocabulary import Vocabulary


def evaluate(dataset, outputs=None, order=None, **options):
    evaluator = SemanticSegmentationEvaluator(dataset_info(dataset.name), **options)
    outputs = outputs or dataset.outputs()
    for i in order if order is not None else range(len(dataset.records)):
        evaluator.process([dataset.records[i]], [outputs[i]])
    return evaluator.evaluate()["sem_seg"], evaluator


def check_against_detectron2(dataset, folder: Path) -> None:
    """Every standard key of Detectron2's evaluator on seeded scores, to 1e-9."""
    num_classes = len(dataset.metadata["stuff_classes"])
    reference = SemSegEvaluator(dataset.name, distributed=False, output_dir=str(folder))
    reference.reset()
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for prediction in dataset.predictions:
        scores = torch.rand(num_classes, *prediction.shape, generator=generator)
        scores.scatter_add_(0, torch.from_numpy(prediction)[None], torch.full((1, *prediction.shape), 0.6))
        outputs.append({"sem_seg": scores})
    reference.process(dataset.records, outputs)
    expected = reference.evaluate()["sem_seg"]
    labels_only = [{"sem_seg_labels": output["sem_seg"].argmax(0)} for output in outputs]
    results, _ = evaluate(dataset, labels_only)
    assert evaluate(dataset, outputs)[0] == results
    standard = ["mIoU", "fwIoU", "mACC", "pACC", *(f"IoU-{name}" for name in dataset.metadata["stuff_classes"])]
    for key in standard:
        if math.isnan(expected[key]):
            assert key not in results
        else:
            assert results[key] == pytest.approx(expected[key], abs=1e-9), key
    assert math.isnan(expected[f"IoU-class {num_classes - 1}"])  # the class that is only predicted


@pytest.mark.parametrize("num_classes", [6, 40])
def test_equals_detectron2(make_dataset, num_classes: int, tmp_path: Path) -> None:
    """Whichever Detectron2 is installed."""
    check_against_detectron2(make_dataset(num_classes=num_classes, seed=num_classes), tmp_path)


@pytest.mark.upstream_detectron2
@pytest.mark.parametrize("seed", range(5))
def test_equals_upstream_detectron2(make_dataset, seed: int, tmp_path: Path) -> None:
    """Only upstream's SemSegEvaluator is the one that published figures come from."""
    dataset = make_dataset(num_classes=(3, 21, 150, 171, 300)[seed], ignore=65535 if seed == 4 else 255, seed=seed)
    check_against_detectron2(dataset, tmp_path)


def test_scores_and_labels_agree_and_order_does_not_matter(make_dataset) -> None:
    dataset = make_dataset(seen_classes=[0, 1, 5], unseen_classes=[2, 3])
    one_hot = [
        {"sem_seg": torch.nn.functional.one_hot(torch.from_numpy(p), 6).permute(2, 0, 1).float()}
        for p in dataset.predictions
    ]
    results, _ = evaluate(dataset)
    assert evaluate(dataset, one_hot)[0] == results
    assert evaluate(dataset, order=[3, 0, 4, 1, 2])[0] == results
    ious = [results[f"IoU-class {c}"] for c in range(4)]
    assert results["mIoU-seen"] == pytest.approx((ious[0] + ious[1]) / 2)
    assert results["mIoU-unseen"] == pytest.approx((ious[2] + ious[3]) / 2)
    seen, unseen = results["mIoU-seen"], results["mIoU-unseen"]
    assert results["mIoU-harmonic"] == pytest.approx(2 * seen * unseen / (seen + unseen))


def test_ignored_pixels_do_not_count(make_dataset) -> None:
    dataset = make_dataset()
    results, _ = evaluate(dataset)
    for prediction, label in zip(dataset.predictions, dataset.labels, strict=True):
        prediction[label == 255] = 5
    assert evaluate(dataset)[0] == results


def test_perfect_prediction_is_100(make_dataset) -> None:
    dataset = make_dataset()
    outputs = [{"sem_seg_labels": torch.from_numpy(np.where(label == 255, 0, label))} for label in dataset.labels]
    results, evaluator = evaluate(dataset, outputs)
    assert [results[key] for key in ("mIoU", "fwIoU", "mACC", "pACC", "mIoU-pred-or-gt")] == [100.0] * 5
    assert [image.miou for image in evaluator.images] == [100.0] * 5


def test_more_than_255_classes_with_16_bit_labels(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset(num_classes=700, ignore=65535)
    results, evaluator = evaluate(dataset, output_dir=tmp_path, save_predictions=True)
    inside = [label != 65535 for label in dataset.labels]
    label = np.concatenate([x[k] for x, k in zip(dataset.labels, inside, strict=True)])
    prediction = np.concatenate([x[k] for x, k in zip(dataset.predictions, inside, strict=True)])
    ious = [
        ((label == c) & (prediction == c)).sum() / ((label == c) | (prediction == c)).sum() for c in np.unique(label)
    ]
    assert label.max() > 255
    assert results["mIoU"] == pytest.approx(100 * np.mean(ious), abs=1e-9)
    for image, expected in zip(evaluator.images, dataset.predictions, strict=True):
        with Image.open(image.prediction) as saved:
            assert saved.mode == "I;16"
        assert np.array_equal(read_label_map(image.prediction), expected)


def test_saved_predictions_keep_their_folders(make_dataset, tmp_path: Path) -> None:
    """Two images of one name in two folders don't overwrite each other."""
    dataset = make_dataset(num_images=2)
    root = dataset.metadata["image_root"]
    for record, folder in zip(dataset.records, ("a", "b"), strict=True):
        record["file_name"] = f"{root}/{folder}/0.jpg"
    _, evaluator = evaluate(dataset, output_dir=tmp_path, save_predictions=True)
    saved = [Path(image.prediction).relative_to(tmp_path).as_posix() for image in evaluator.images]
    assert saved == [f"predictions-{dataset.name}/a/0.png", f"predictions-{dataset.name}/b/0.png"]
    assert np.array_equal(read_label_map(evaluator.images[1].prediction), dataset.predictions[1])


def test_results_file(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset(seen_classes=[0], unseen_classes=[5])
    results, evaluator = evaluate(dataset, output_dir=tmp_path, config_text="A: 1\n")
    text = (tmp_path / f"results-{dataset.name}.json").read_text()
    assert "NaN" not in text
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert record["num_images"] == 5
    assert record["figures"]["mIoU"] == results["mIoU"]
    assert record["figures"]["mIoU-unseen"] is None  # class 5 is nowhere labelled
    assert record["iou_per_class"] == [results.get(f"IoU-class {c}") for c in range(6)]
    assert record["class_names"] == dataset.metadata["stuff_classes"]
    assert record["label_pixels"] == [int(sum((label == c).sum() for label in dataset.labels)) for c in range(6)]
    assert [image["miou"] for image in record["images"]] == [image.miou for image in evaluator.images]
    assert record["config_sha256"] == hashlib.sha256(b"A: 1\n").hexdigest()
    assert set(record["versions"]) == {"twostage", "detectron2", "torch", "numpy", "python"}
    assert record["seconds"] >= 0
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_build_evaluator(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset()
    cfg = default_config()
    cfg.OUTPUT_DIR = str(tmp_path)
    evaluator = build_evaluator(cfg, dataset.name)
    evaluator.process(dataset.records, dataset.outputs())
    evaluator.evaluate()
    assert (tmp_path / "inference" / f"results-{dataset.name}.json").is_file()
    assert evaluator.images[0].prediction is None


def test_label_file_from_the_catalogue(make_dataset) -> None:
    """Detectron2's own mapper takes the label file out of the record; the catalogue still knows it."""
    dataset = make_dataset()
    results, _ = evaluate(dataset)
    evaluator = SemanticSegmentationEvaluator(dataset_info(dataset.name))
    evaluator.process([{"file_name": record["file_name"]} for record in dataset.records], dataset.outputs())
    assert evaluator.evaluate()["sem_seg"] == results
    with pytest.raises(UserError, match=r"'other\.jpg' is no image of"):
        evaluator.process([{"file_name": "other.jpg"}], dataset.outputs()[:1])


def test_two_processes_merge_exactly(make_dataset, tmp_path: Path) -> None:
    """A real two-process gloo run gives bit-identical figures; the second rank returns nothing."""
    dataset = make_dataset(num_images=7, seen_classes=[0, 1], unseen_classes=[2, 3, 4])
    measures = [BoundaryMeasure, OracleMeasure]
    results, evaluator = evaluate(dataset, output_dir=tmp_path / "single", measures=measures)
    for i, (record, prediction) in enumerate(zip(dataset.records, dataset.predictions, strict=True)):
        record["prediction"] = str(tmp_path / f"prediction{i}.png")
        write_label_map(record["prediction"], prediction)
    content = {"metadata": dataset.metadata, "records": dataset.records}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    worker = Path(__file__).with_name("shard_worker.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, str(worker), str(rank), "2", str(tmp_path)], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["results"]["sem_seg"] == results
    assert first["files"] == [Path(image.file_name).name for image in evaluator.images]
    assert second["results"] is None
    assert not list(tmp_path.glob("out1/results*")) and not list(tmp_path.glob("out0/partial*"))
    single, merged = (
        json.loads((tmp_path / folder / f"results-{name}.json").read_text())
        for folder, name in (("single", dataset.name), ("out0", "sharded"))
    )
    for key in ("figures", "iou_per_class", "label_pixels", "num_images", "confusions", "errors", "oracles"):
        assert merged[key] == single[key], key
    assert merged["processes"] == 2 and merged["weights_sha256"] == "x"


def test_value_outside_the_class_list(make_dataset) -> None:
    dataset = make_dataset()
    dataset.labels[2][0, 0] = 77
    Image.fromarray(dataset.labels[2].astype(np.uint8)).save(dataset.records[2]["sem_seg_file_name"])
    with pytest.raises(UserError, match=r"annotations/2\.png' holds the value 77, but .* has 6 classes"):
        evaluate(dataset)


def test_sizes_that_differ(make_dataset) -> None:
    dataset = make_dataset()
    dataset.predictions[1] = np.zeros((3, 4), np.int64)
    height, width = dataset.labels[1].shape
    with pytest.raises(UserError, match=rf"1\.png' is {width} x {height} but .*1\.jpg' is 4 x 3"):
        evaluate(dataset)


def test_model_with_another_vocabulary(make_dataset) -> None:
    dataset = make_dataset()
    dataset.predictions[0][:] = 9
    with pytest.raises(UserError, match=r"predicts class 9 but .* has 6 classes"):
        evaluate(dataset)


def test_colour_picture_as_label(make_dataset) -> None:
    dataset = make_dataset()
    path = dataset.records[0]["sem_seg_file_name"]
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(UserError, match=r"0\.png' is a colour picture \(mode RGB\)"):
        evaluate(dataset)


def test_unreadable_and_missing_label(make_dataset) -> None:
    dataset = make_dataset()
    path = Path(dataset.records[0]["sem_seg_file_name"])
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"0\.png' can't be read"):
        evaluate(dataset)
    path.unlink()
    with pytest.raises(UserError, match=r"0\.png' does not exist"):
        evaluate(dataset)


def test_empty_split_and_repeated_class(make_dataset) -> None:
    dataset = make_dataset()
    with pytest.raises(UserError, match="gave no image"):
        SemanticSegmentationEvaluator(dataset_info(dataset.name)).evaluate()
    repeated = make_dataset(stuff_classes=["cat", "dog", "cat"])
    with pytest.raises(UserError, match="lists class 'cat' more than once"):
        SemanticSegmentationEvaluator(dataset_info(repeated.name))
    outside = make_dataset(unseen_classes=[6])
    with pytest.raises(UserError, match="class index 6 is outside"):
        SemanticSegmentationEvaluator(dataset_info(outside.name))


def test_other_kind_of_dataset(make_dataset) -> None:
    dataset = make_dataset(evaluator_type="coco")
    with pytest.raises(UserError, match="evaluator_type 'coco'"):
        build_evaluator(default_config(), dataset.name)
    nothing = make_dataset(stuff_classes=None)
    with pytest.raises(UserError, match="no 'stuff_classes'"):
        build_evaluator(default_config(), nothing.name)


def test_folder_that_cannot_be_written(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset()
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"can't write .*file"):
        evaluate(dataset, output_dir=blocked)


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "tif"])
def test_label_widths(mode: str, tmp_path: Path) -> None:
    values = np.array([[0, 3], [250, 255]]) * (257 if mode in ("I;16", "tif") else 1)
    path = tmp_path / ("label.tif" if mode == "tif" else "label.png")
    image = Image.fromarray(values.astype(np.uint16 if mode in ("I;16", "tif") else np.uint8))
    if mode == "P":
        image.putpalette([c for i in range(256) for c in (255 - i, i, 7)])
    image.save(path)
    assert np.array_equal(read_label_map(path), values)


def test_folded_background(make_dataset) -> None:
    """PAS-20b's rule: more names are asked for than classes are scored; all from class 4 on are the background, 4."""
    dataset = make_dataset(num_classes=5)
    names = [f"name {i}" for i in range(9)]
    MetadataCatalog.get(dataset.name).set(prompt_classes=names, prompt_to_class=[0, 1, 2, 3, *5 * [4]])
    folded, _ = evaluate(dataset)
    rng = np.random.default_rng(3)
    spread = [np.where(p == 4, rng.integers(4, 9, p.shape), p) for p in dataset.predictions]
    assert evaluate(dataset, [{"sem_seg_labels": torch.from_numpy(p)} for p in spread])[0] == folded
    assert Vocabulary.from_dataset(dataset.name).names == tuple(names)
    with pytest.raises(UserError, match=r"predicts class 9 but .* has 9 classes"):
        evaluate(dataset, [{"sem_seg_labels": torch.full_like(torch.from_numpy(p), 9)} for p in spread])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"prompt_classes": ["a", "b"]}, "'prompt_classes' and 'prompt_to_class' together"),
        ({"prompt_classes": ["a", "b"], "prompt_to_class": [0]}, "equally long"),
        ({"prompt_classes": ["a"], "prompt_to_class": [6]}, "prompt_to_class class index 6 is outside its 6"),
        ({"thing_ids": [-1]}, "thing class index -1"),
    ],
)
def test_contradicting_metadata(make_dataset, extra: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SemanticSegmentationEvaluator(dataset_info(make_dataset(**extra).name))


def test_eight_bits_where_sixteen_are_needed(make_dataset) -> None:
    dataset = make_dataset(num_classes=300, ignore=65535)
    Image.fromarray((dataset.labels[0] % 256).astype(np.uint8)).save(dataset.records[0]["sem_seg_file_name"])
    with pytest.raises(UserError, match=r"0\.png' has 8 bits per pixel, but labels of this dataset go up to 65535"):
        evaluate(dataset)


def test_boundary_figures_and_confusions(make_dataset, tmp_path: Path) -> None:
    """Boundary figures equal those of all images at once; the confusions are the largest entries of the dense matrix."""
    dataset = make_dataset(seen_classes=[0, 1, 2], unseen_classes=[3, 4])
    results, evaluator = evaluate(dataset, output_dir=tmp_path, measures=[BoundaryMeasure])
    total = 0
    for prediction, label in zip(dataset.predictions, dataset.labels, strict=True):
        total += boundary_counts(*(torch.from_numpy(x) for x in (prediction, label, label != 255)), 6)
    iou = 100 * boundary_iou(total)
    assert results["boundary-mIoU"] == pytest.approx(np.nanmean(iou))
    assert results["boundary-mIoU-seen"] == pytest.approx(iou[:3].mean())
    assert results["boundary-mIoU-unseen"] == pytest.approx(iou[3:5].mean())
    record = json.loads((tmp_path / f"results-{dataset.name}.json").read_text())
    assert (
        record["boundary_iou_per_class"][:5] == pytest.approx(iou[:5]) and record["boundary_iou_per_class"][5] is None
    )
    dense = evaluator.measures[0].matrix.dense()
    for g in range(5):
        found = [entry for entry in record["confusions"] if entry["label"] == g]
        column = dense[:, g].copy()
        column[g] = 0
        assert [entry["pixels"] for entry in found] == sorted(column[column > 0].tolist(), reverse=True)[:5]
        assert all(column[entry["prediction"]] == entry["pixels"] for entry in found)
        assert found[0]["share"] == pytest.approx(column.max() / dense[:, g].sum())
    row = (tmp_path / f"results-{dataset.name}.md").read_text().splitlines()[2]
    assert row.startswith(f"| {dataset.name} ") and f"{results['mIoU']:.2f}" in row


def test_a_set_without_labelled_pixels_says_so(make_dataset, tmp_path: Path, caplog) -> None:
    dataset = make_dataset(num_images=2)
    for record in dataset.records:
        write_label_map(record["sem_seg_file_name"], np.full((record["height"], record["width"]), 255))
    results, _ = evaluate(dataset, output_dir=tmp_path)
    assert "mIoU" not in results
    record = json.loads((tmp_path / f"results-{dataset.name}.json").read_text())
    assert record["figures"].get("mIoU") is None
    (note,) = record["notes"]
    assert "no pixel" in note and note in caplog.text
    assert note in (tmp_path / f"results-{dataset.name}.md").read_text()
