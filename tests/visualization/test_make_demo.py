"""The demo tool from end to end on a handful of toybox scenes, with a random CLIP and two iterations."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from twostage.commands import make_demo as command
from twostage.commands.tool_arguments import make_demo_parser
from twostage.data.registration import register_catalogue
from twostage.data.toybox.dataset import plan_scenes, render
from twostage.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def make_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The command, with configs that need no trained CLIP and batches of two pictures."""
    configs = shutil.copytree(ROOT / "configs", tmp_path / "configs")
    base = configs / "base" / "toybox.yaml"
    text = base.read_text()
    assert "PRETRAINED: toybox" in text and "IMS_PER_BATCH: 8" in text
    base.write_text(
        text.replace("PRETRAINED: toybox", 'PRETRAINED: ""').replace("IMS_PER_BATCH: 8", "IMS_PER_BATCH: 2")
    )
    monkeypatch.setattr(command, "find_config", lambda name: str(configs / f"{name}.yaml"))
    return command


@pytest.fixture
def few_scenes(tmp_path: Path) -> Iterator[None]:
    """toybox_train and toybox_val_open hold four pictures each while the test runs."""
    register_catalogue()
    saved = {}
    for name, split in (("toybox_train", "train"), ("toybox_val_open", "open")):
        folder = tmp_path / name
        folder.mkdir()
        records = []
        for plan, scene in render(plan_scenes(0, split, 4), 0, split):
            image, label = folder / f"{plan.name}.jpg", folder / f"{plan.name}.png"
            Image.fromarray(scene.image).save(image, quality=92)
            Image.fromarray(scene.labels).save(label)
            height, width = scene.labels.shape
            records.append({"file_name": str(image), "sem_seg_file_name": str(label), "height": height, "width": width})
        metadata = MetadataCatalog.get(name)
        saved[name] = (DatasetCatalog.pop(name), metadata.as_dict())
        DatasetCatalog.register(name, lambda records=records: [dict(record) for record in records])
        MetadataCatalog.pop(name)
        # Without the catalogue's facts, whose folders would be looked for under the datasets root.
        own = {key: value for key, value in saved[name][1].items() if key != "info"}
        MetadataCatalog.get(name).set(**{**own, "image_root": str(folder), "sem_seg_root": str(folder)})
    yield
    for name, (records, metadata) in saved.items():
        DatasetCatalog.pop(name)
        DatasetCatalog.register(name, records)
        MetadataCatalog.pop(name)
        MetadataCatalog.get(name).set(**metadata)


def run(module: ModuleType, *arguments: str) -> None:
    module.run_from_arguments(make_demo_parser().parse_args(arguments))


@pytest.mark.slow
def test_demo(make_demo: ModuleType, few_scenes: None, monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setenv("TWOSTAGE_DEMO_START", str(time.time() - 600))
    output = tmp_path / "demo"
    run(make_demo, "--output", str(output), "--max-iter", "2", "--seed", "3")
    summary = json.loads((output / "summary.json").read_text())
    assert list(summary) == ["seen_miou", "unseen_miou", "harmonic_miou", "baseline_unseen_miou", "minutes"]
    assert 10 < summary["minutes"] < 15

    san, baseline = (
        json.loads((folder / "inference" / "results-toybox_val_open.json").read_text())
        for folder in (output, output / "baseline")
    )
    assert summary["unseen_miou"] == san["figures"]["mIoU-unseen"]
    assert summary["baseline_unseen_miou"] == baseline["figures"]["mIoU-unseen"]
    assert san["num_images"] == baseline["num_images"] == 4
    assert san["config_sha256"] != baseline["config_sha256"]

    page = (output / "report.html").read_text()
    for record in (san, baseline):
        assert f"{record['figures']['mIoU-unseen']:.2f}" in page
    assert "seed 3" in page and "2 iterations of 2 images" in page
    names = sorted(path.name for path in (output / "pictures").iterdir())
    assert {"best.png", "worst.png"} <= set(names)
    assert json.loads((output / "metrics.json").read_text().splitlines()[0])["total_loss"] > 0
    newest = max(output.rglob("*"), key=lambda path: path.stat().st_mtime_ns if path.is_file() else 0)
    assert newest.name == "summary.json"
    table = capsys.readouterr().out
    assert "| SAN, trained on the seen classes |" in table and "unseen mIoU" in table


def test_a_failed_demo_leaves_no_summary(make_demo: ModuleType, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    monkeypatch.setattr(make_demo, "train", lambda *_, **__: (_ for _ in ()).throw(UserError("no data")))
    with pytest.raises(UserError, match="no data"):
        run(make_demo, "--output", str(tmp_path))
    assert not (tmp_path / "summary.json").exists()


def test_bad_start_time(make_demo: ModuleType, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TWOSTAGE_DEMO_START", "yesterday")
    with pytest.raises(UserError, match="TWOSTAGE_DEMO_START is 'yesterday'"):
        run(make_demo, "--output", str(tmp_path))
