"""A killed evaluation continues where it stopped; broken files are listed instead of stopping it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from twostage.checkpoint.fingerprint import weights_sha256
from twostage.config import default_config
from twostage.data.loaders import build_test_loader
from twostage.engine.evaluation import evaluate_dataset, system_hash
from twostage.errors import UserError
from twostage.evaluation.building import build_evaluator
from twostage.evaluation.journal import Journal


class Lookup(nn.Module):
    """Gives the seeded predictions; stops like a killed process before image number `dies_at`."""

    def __init__(self, dataset) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(3.0))
        self.predictions = {
            record["file_name"]: torch.from_numpy(prediction)
            for record, prediction in zip(dataset.records, dataset.predictions, strict=True)
        }
        self.seen: list[str] = []
        self.dies_at = -1

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if len(self.seen) == self.dies_at:
            raise KeyboardInterrupt
        self.seen += [Path(record["file_name"]).name for record in batch]
        assert all(record["image"].shape[0] == 3 for record in batch)
        return [{"sem_seg_labels": self.predictions[record["file_name"]]} for record in batch]


@pytest.fixture
def dataset(make_dataset):
    made = make_dataset(num_images=6, seen_classes=[0, 1, 2], unseen_classes=[3, 4])
    for record in made.records:
        Image.new("RGB", (record["width"], record["height"])).save(record["file_name"])
    return made


def config(output: Path, **test_keys):
    cfg = default_config()
    cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS = str(output), 0
    cfg.TEST.BOUNDARY_IOU = True
    cfg.TEST.update(test_keys)
    return cfg


def evaluate(cfg, model, dataset, *, resume: bool = False) -> dict[str, Any]:
    return evaluate_dataset(
        cfg, model, dataset.name, build_evaluator(cfg, dataset.name),
        build_loader=build_test_loader, weights=weights_sha256(model), resume=resume,
    )  # fmt: skip


def record_of(output: Path, dataset) -> dict[str, Any]:
    return json.loads((output / "inference" / f"results-{dataset.name}.json").read_text())


def test_killed_evaluation_continues(dataset, tmp_path: Path) -> None:
    whole = evaluate(config(tmp_path / "whole"), Lookup(dataset), dataset)
    cfg, model = config(tmp_path / "killed", SAVE_PREDICTIONS=True), Lookup(dataset)
    model.dies_at = 4
    with pytest.raises(KeyboardInterrupt):
        evaluate(cfg, model, dataset)
    partial = tmp_path / "killed" / "inference" / f"partial-{dataset.name}"
    (journal,) = partial.iterdir()
    assert len(journal.read_text().splitlines()) == 1 + 4
    # The last line was being written when the process died.
    journal.write_text(journal.read_text()[:-30])

    model.seen, model.dies_at = [], 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(cfg, model, dataset, resume=True)
    assert model.seen == ["3.jpg", "4.jpg"]
    model.seen, model.dies_at = [], -1
    assert evaluate(cfg, model, dataset, resume=True) == whole
    assert model.seen == ["5.jpg"]
    assert not partial.exists()
    first, second = record_of(tmp_path / "whole", dataset), record_of(tmp_path / "killed", dataset)
    assert (first["continued_images"], second["continued_images"]) == (0, 5)
    for key in ("figures", "iou_per_class", "boundary_iou_per_class", "label_pixels", "confusions", "weights_sha256"):
        assert first[key] == second[key], key
    assert [i["miou"] for i in first["images"]] == [i["miou"] for i in second["images"]]
    assert all(Path(image["prediction"]).is_file() for image in second["images"])


def test_everything_was_finished(dataset, tmp_path: Path) -> None:
    """Killed between the last image and the results file."""
    cfg, model = config(tmp_path), Lookup(dataset)
    whole = evaluate(cfg, model, dataset)
    evaluator = build_evaluator(cfg, dataset.name)
    evaluator.begin({"weights_sha256": weights_sha256(model), "system_sha256": system_hash(cfg)}, resume=False)
    evaluator.reset()
    evaluator.process(dataset.records, dataset.outputs())
    model.seen = []
    assert evaluate(cfg, model, dataset, resume=True) == whole
    assert model.seen == []


def test_without_resume_it_begins_anew(dataset, tmp_path: Path) -> None:
    cfg, model = config(tmp_path), Lookup(dataset)
    model.dies_at = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate(cfg, model, dataset)
    model.seen, model.dies_at = [], -1
    evaluate(cfg, model, dataset)
    assert len(model.seen) == 6
    assert record_of(tmp_path, dataset)["continued_images"] == 0


@pytest.mark.parametrize("changed", ["weights", "config", "measures"])
def test_other_subject_is_refused(dataset, tmp_path: Path, changed: str) -> None:
    cfg, model = config(tmp_path), Lookup(dataset)
    model.dies_at = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate(cfg, model, dataset)
    if changed == "weights":
        model.weight.data[1] += 1e-6
    elif changed == "config":
        cfg.INPUT.MIN_SIZE_TEST += 32
    else:
        cfg.TEST.BOUNDARY_IOU = False
    with pytest.raises(UserError, match=rf"partial-{dataset.name}' holds a stopped evaluation with another .*--resume"):
        evaluate(cfg, model, dataset, resume=True)


def test_hashes() -> None:
    """The weights' name depends on values and names, the system's not on where and how it runs."""
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    assert weights_sha256(model) != weights_sha256(other)
    other.load_state_dict(model.state_dict())
    assert weights_sha256(model) == weights_sha256(other) != weights_sha256(model.bfloat16())
    cfg = default_config()
    before = system_hash(cfg)
    cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS, cfg.DATASETS.TEST = "elsewhere", 7, ("a",)
    assert system_hash(cfg) == before
    cfg.MODEL.CLIP.TEMPLATES = "single"
    assert system_hash(cfg) != before


def test_journal_keeps_numbers_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = {"a": {"codes": rng.integers(0, 2**62, 50), "iou": rng.random(50)}, "b": {"none": np.empty(0, np.int64)}}
    for rank in (0, 1):
        journal = Journal(tmp_path / "j", subject={"weights": "x"}, rank=rank)
        journal.write({"file_name": f"{rank}.jpg", "counts": counts})
        journal.close()
    entries = Journal(tmp_path / "j", subject={"weights": "x"}).read()
    assert sorted(entries) == ["0.jpg", "1.jpg"]
    for entry in entries.values():
        for measure, arrays in counts.items():
            for key, array in arrays.items():
                read = entry["counts"][measure][key]
                assert read.dtype == array.dtype and np.array_equal(read, array)


def test_broken_files_are_listed(dataset, tmp_path: Path) -> None:
    """An image that is cut off, a label of another size, a value outside the list: left out, named, the rest counts."""
    Path(dataset.records[1]["file_name"]).write_bytes(b"\xff\xd8 cut off")
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(dataset.records[3]["sem_seg_file_name"])
    Image.fromarray(np.full_like(dataset.labels[4], 77).astype(np.uint8)).save(dataset.records[4]["sem_seg_file_name"])
    with pytest.raises(UserError, match=r"1\.jpg"):
        evaluate(config(tmp_path / "strict"), Lookup(dataset), dataset)
    results = evaluate(config(tmp_path, SKIP_BROKEN=True), Lookup(dataset), dataset)
    record = record_of(tmp_path, dataset)
    assert record["num_images"] == 3
    assert [Path(entry["file_name"]).name for entry in record["skipped"]] == ["1.jpg", "3.jpg", "4.jpg"]
    for entry, reason in zip(record["skipped"], ("can't be read", "is 4 x 3 but", "holds the value 77"), strict=True):
        assert reason in entry["reason"]
    good = [0, 2, 5]
    label = np.concatenate([dataset.labels[i].ravel() for i in good])
    prediction = np.concatenate([dataset.predictions[i].ravel() for i in good])
    assert results["sem_seg"]["pACC"] == pytest.approx(100 * (prediction == label)[label != 255].mean())


def test_skipped_files_stay_skipped_when_continued(dataset, tmp_path: Path) -> None:
    Path(dataset.records[1]["file_name"]).unlink()
    cfg, model = config(tmp_path, SKIP_BROKEN=True), Lookup(dataset)
    model.dies_at = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate(cfg, model, dataset)
    model.seen, model.dies_at = [], -1
    evaluate(cfg, model, dataset, resume=True)
    assert model.seen == ["4.jpg", "5.jpg"]
    record = record_of(tmp_path, dataset)
    assert record["num_images"] == 5 and len(record["skipped"]) == 1


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("changed", ["file_name", "sem_seg_file_name"])
def test_changed_files_are_evaluated_again(dataset, tmp_path: Path, changed: str, killed: bool) -> None:
    cfg, model = config(tmp_path), Lookup(dataset)
    if killed:
        model.dies_at = 4
        with pytest.raises(KeyboardInterrupt):
            evaluate(cfg, model, dataset)
    else:
        evaluate(cfg, model, dataset)
    path = Path(dataset.records[1][changed])
    with Image.open(path) as picture:
        edited = picture.copy()
    if changed == "file_name":
        edited.paste((90, 9, 200), (0, 0, *edited.size))
    else:
        edited.putpixel((0, 0), (edited.getpixel((0, 0)) + 1) % 3)
    edited.save(path)
    again = Lookup(dataset)
    results = evaluate(cfg, again, dataset, resume=True)
    # After a kill only the changed image and the ones that were left; a finished evaluation keeps no counts to go on from.
    names = [Path(record["file_name"]).name for record in dataset.records]
    assert again.seen == ([names[1], *names[4:]] if killed else names)
    assert results == evaluate(config(tmp_path / "fresh"), Lookup(dataset), dataset)


def test_damaged_lines_are_counted_again(dataset, tmp_path: Path) -> None:
    """A digit that changed is noticed, as is a line that another one was written behind."""
    whole = evaluate(config(tmp_path / "whole"), Lookup(dataset), dataset)
    cfg, model = config(tmp_path), Lookup(dataset)
    model.dies_at = 4
    with pytest.raises(KeyboardInterrupt):
        evaluate(cfg, model, dataset)
    (journal,) = (tmp_path / "inference" / f"partial-{dataset.name}").iterdir()
    lines = journal.read_text().splitlines()
    lines[1] = lines[1].replace("[1", "[2", 1) if "[1" in lines[1] else lines[1].replace("1", "2", 1)
    lines[2] = lines[2][:-30] + lines[3]
    journal.write_text("\n".join([*lines[:3], lines[4]]) + "\n")
    (journal.parent / "rank1-0.jsonl").write_bytes(bytes(range(256)) + b"\n")
    model.seen, model.dies_at = [], -1
    assert evaluate(cfg, model, dataset, resume=True) == whole
    assert model.seen == ["0.jpg", "1.jpg", "2.jpg", "4.jpg", "5.jpg"]


@pytest.mark.parametrize("content", ["", "[]", "3", "{}", "[" * 5000])
def test_damaged_results_are_made_again(dataset, tmp_path: Path, content: str) -> None:
    cfg, model = config(tmp_path), Lookup(dataset)
    whole = evaluate(cfg, model, dataset)
    path = tmp_path / "inference" / f"results-{dataset.name}.json"
    text = path.read_text()
    path.write_text(content or text.replace('"mIoU": ', '"mIoU": 1', 1))
    model.seen = []
    assert evaluate(cfg, model, dataset, resume=True) == whole
    assert len(model.seen) == 6


def test_a_full_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", subject={"weights": "x"})
    journal.write({"file_name": "a.jpg", "counts": {}})
    real = journal._file
    journal._file = open("/dev/full", "w")  # noqa: SIM115, PTH123
    with pytest.raises(UserError, match=r"No space left on device.*--resume"):
        journal.write({"file_name": "b.jpg", "counts": {}})
    real.close()
    assert list(Journal(tmp_path / "j", subject={"weights": "x"}).read()) == ["a.jpg"]
