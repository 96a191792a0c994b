"""The error split and the oracles: closed forms, an independent slow computation, bounds, a system that knows the classes."""

from __future__ import annotations

import json
from collections import Counter, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from open_clip import get_tokenizer

from twostage.batch import output_sizes
from twostage.clip.text import TextEmbedder
from twostage.data.labels import write_label_map
from twostage.data.views import dataset_info
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.oracle_classes import OracleClasses
from twostage.evaluation.oracles import OracleMeasure, renamed
from twostage.evaluation.semantic import SemanticSegmentationEvaluator
from twostage.predictions.dense import DensePrediction
from twostage.predictions.geometry import Geometry
from twostage.predictions.outputs import OutputSettings
from twostage.segmenter import OpenVocabularySegmenter


def slow_renamed(regions: np.ndarray, names: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Flood fill from every pixel that no region has yet, then a vote."""
    height, width = regions.shape
    result, seen = regions.copy(), np.zeros(regions.shape, bool)
    for start in np.ndindex(height, width):
        if seen[start]:
            continue
        seen[start] = True
        queue, region = deque([start]), []
        while queue:
            y, x = queue.popleft()
            region.append((y, x))
            for place in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                inside = 0 <= place[0] < height and 0 <= place[1] < width
                if inside and not seen[place] and regions[place] == regions[start]:
                    seen[place] = True
                    queue.append(place)
        votes = Counter(int(names[place]) for place in region if valid[place])
        if votes:
            winner = min(votes, key=lambda name: (-votes[name], name))
            for place in region:
                result[place] = winner
    return result


@pytest.mark.parametrize("seed", range(3))
def test_renamed_equals_flood_fill(seed: int) -> None:
    rng = np.random.default_rng(seed)
    regions = rng.integers(0, 3, (12, 15)).repeat(2, 0).repeat(2, 1)
    names = rng.integers(0, 4, regions.shape)
    valid = rng.random(regions.shape) < 0.7
    valid[:4] = False  # some regions have no say at all
    assert np.array_equal(renamed(regions, names, valid), slow_renamed(regions, names, valid))
    assert np.array_equal(renamed(regions, names, np.zeros_like(valid)), regions)


def errors_of(dataset, predictions=None) -> tuple[dict, dict]:
    evaluator = SemanticSegmentationEvaluator(dataset_info(dataset.name), measures=[OracleMeasure])
    outputs = [{"sem_seg_labels": torch.from_numpy(p)} for p in predictions or dataset.predictions]
    evaluator.process(dataset.records, outputs)
    evaluator.evaluate()
    record = evaluator.measures[1].record()
    return record["errors"], record["oracles"]


def set_labels(dataset, label: np.ndarray) -> None:
    write_label_map(dataset.records[0]["sem_seg_file_name"], label)


def test_pure_naming_and_pure_masks(make_dataset) -> None:
    """Left half class 0, right half class 1. Perfect masks with one wrong name; right names with a border off by 2 of 20."""
    dataset = make_dataset(num_images=1)
    label = np.zeros((10, 20), np.int64)
    label[:, 10:] = 1
    set_labels(dataset, label)
    errors, oracles = errors_of(dataset, [np.where(label == 1, 3, label)])
    assert errors == {"error": 50.0, "mask-error": 0.0, "classification-error": 50.0}
    assert oracles["names"]["mIoU"] == 100.0 and oracles["regions"]["mIoU"] == 50.0
    shifted = np.zeros_like(label)
    shifted[:, 12:] = 1
    errors, oracles = errors_of(dataset, [shifted])
    assert errors == {"error": 10.0, "mask-error": 10.0, "classification-error": 0.0}
    assert oracles["names"]["pACC"] == 90.0 and oracles["regions"]["mIoU"] == 100.0
    both = np.where(shifted == 1, 3, shifted)
    errors, _ = errors_of(dataset, [both])
    assert errors == {"error": 50.0, "mask-error": 10.0, "classification-error": 40.0}


def test_bounds_on_random_maps(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset(seen_classes=[0, 1, 2], unseen_classes=[3, 4])
    evaluator = SemanticSegmentationEvaluator(dataset_info(dataset.name), output_dir=tmp_path, measures=[OracleMeasure])
    evaluator.process(dataset.records, dataset.outputs())
    results = evaluator.evaluate()["sem_seg"]
    record = json.loads((tmp_path / f"results-{dataset.name}.json").read_text())
    errors, oracles = record["errors"], record["oracles"]
    assert errors["error"] == pytest.approx(100 - results["pACC"])
    assert errors["error"] == pytest.approx(errors["mask-error"] + errors["classification-error"])
    assert errors["classification-error"] > 0
    assert oracles["names"]["pACC"] == pytest.approx(100 - errors["mask-error"])
    assert oracles["names"]["pACC"] >= results["pACC"]
    assert set(oracles["names"]) == {"mIoU", "mIoU-seen", "mIoU-unseen", "mIoU-harmonic", "pACC"}
    assert "classes" not in oracles  # nobody was told


def test_oracle_classes_are_counted_apart(make_dataset) -> None:
    dataset = make_dataset()
    outputs = [
        {**o, "sem_seg_labels_oracle": torch.from_numpy(np.where(label == 255, 0, label))}
        for o, label in zip(dataset.outputs(), dataset.labels, strict=True)
    ]
    evaluator = SemanticSegmentationEvaluator(dataset_info(dataset.name), measures=[OracleMeasure])
    evaluator.process(dataset.records, outputs)
    assert evaluator.evaluate()["sem_seg"]["mIoU"] < 90
    assert evaluator.measures[1].record()["oracles"]["classes"]["mIoU"] == 100.0


class CosineSystem(OpenVocabularySegmenter):
    """Random features of 8 x 8 patches times text: every class is scored on its own."""

    def encode(self, images):
        generator = torch.Generator().manual_seed(0)
        projection = torch.randn(24, 3, 8, 8, generator=generator)
        return torch.nn.functional.conv2d(images.tensor, projection, stride=8), Geometry.of(images)

    def decode(self, encoded, text):
        features, geometry = encoded
        logits = torch.einsum("cd,bdhw->bchw", text, features)
        return DensePrediction(logits=logits, geometry=geometry, num_classes=len(text))


def test_oracle_predicts_only_what_the_image_shows(make_dataset, tiny_clip) -> None:
    """A system that scores classes one by one: the oracle is the argmax over the classes of the label."""
    text = TextEmbedder(clip=tiny_clip, tokenizer=get_tokenizer("ViT-B-32"), templates=["a {}"], split_synonyms=False)
    model = CosineSystem(
        clip=tiny_clip,
        text=text,
        pixel_mean=[120.0] * 3,
        pixel_std=[60.0] * 3,
        size_divisibility=8,
        outputs=OutputSettings(),
    ).eval()
    dataset = make_dataset(num_classes=9, num_images=3)
    batch = []
    for i, record in enumerate(dataset.records):
        label = dataset.labels[i]
        label[label < 3] = 255  # classes 0..2 are shown nowhere, 8 in no label at all
        image = torch.randint(0, 256, (3, *label.shape), generator=torch.Generator().manual_seed(i))
        batch.append({**record, "image": image, "dataset_name": dataset.name})
        write_label_map(record["sem_seg_file_name"], label)
    oracle = OracleClasses(model, EvaluatedDataset.of(dataset_info(dataset.name)))
    with torch.inference_mode():
        outputs = [oracle([record])[0] for record in batch]
        sizes = output_sizes(batch)
        scores = [model.predict([record]).scores([size])[0] for record, size in zip(batch, sizes, strict=True)]
    changed = 0
    for output, score in zip(outputs, scores, strict=True):
        assert torch.equal(output["sem_seg_labels"], score.argmax(0))
        shown = score.clone()
        shown[[0, 1, 2, 8]] = float("-inf")
        assert torch.equal(output["sem_seg_labels_oracle"], shown.argmax(0))
        changed += int((output["sem_seg_labels_oracle"] != output["sem_seg_labels"]).sum())
    assert changed > 0


def test_prompts_of_a_folded_background(make_dataset) -> None:
    dataset = make_dataset(num_classes=4, num_images=1)
    MetadataCatalog.get(dataset.name).set(prompt_classes=list("abcdef"), prompt_to_class=[0, 1, 2, 3, 3, 3])
    label = np.array([[0, 3], [255, 3]])
    set_labels(dataset, label)
    oracle = OracleClasses(torch.nn.Identity(), EvaluatedDataset.of(dataset_info(dataset.name)))
    assert oracle.shown_prompts(dataset.records[0]).tolist() == [0, 3, 4, 5]
    MetadataCatalog.get(dataset.name).set(background_class=1)
    oracle = OracleClasses(torch.nn.Identity(), EvaluatedDataset.of(dataset_info(dataset.name)))
    assert oracle.shown_prompts(dataset.records[0]).tolist() == [0, 1, 3, 4, 5]
    set_labels(dataset, np.full((2, 2), 255))
    assert oracle._oracle(dataset.records[0]) == {}
