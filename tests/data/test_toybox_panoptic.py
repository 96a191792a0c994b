"""Panoptic labels of toybox: segments fit the label maps, touching things stay apart, older copies get them added."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.data.loaders import check_dataset, dataset_records
from twostage.data.segment_maps import category_of, read_segment_map
from twostage.data.toybox import dataset, words
from twostage.data.toybox.scenes import IGNORE, render_scene
from twostage.data.toybox.textures import TextureBank
from twostage.data.views import dataset_info
from twostage.errors import UserError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty datasets root for a world of a few scenes."""
    monkeypatch.setattr(dataset, "NUM_TRAIN", 3)
    monkeypatch.setattr(dataset, "NUM_VAL_SEEN", 3)
    monkeypatch.setattr(dataset, "NUM_VAL_OPEN", 5)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def forget_panoptic(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Make `folder` a toybox of before; returns content and time of the files that are left."""
    for split in ("train", "val"):
        (folder / f"panoptic_{split}.json").unlink()
        for file in (folder / f"panoptic_{split}").iterdir():
            file.unlink()
        (folder / f"panoptic_{split}").rmdir()
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_segments_fit_the_label_maps(root: Path) -> None:
    records = dataset_records(dataset_info("toybox_val_open"), panoptic=True)
    assert len(records) == 8
    things = 0
    for record in records:
        labels = np.asarray(Image.open(record["sem_seg_file_name"])).astype(int)
        ids = read_segment_map(record["pan_seg_file_name"])
        assert np.array_equal(np.where(labels == IGNORE, -1, labels), category_of(ids))
        segments = {segment["id"]: segment for segment in record["segments_info"]}
        assert set(segments) == set(np.unique(ids).tolist()) - {0} and len(segments) == len(record["segments_info"])
        for name, segment in segments.items():
            rows, columns = np.nonzero(ids == name)
            x, y, width, height = segment["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())
            assert segment["area"] == len(rows) and segment["iscrowd"] == 0
            assert segment["category_id"] == labels[rows[0], columns[0]]
            # Stuff has number 0, and so one segment per class; no two things share a number.
            assert (name % 1000 == 0) == (words.CLASSES[segment["category_id"]] in words.STUFF)
        numbers = [name % 1000 for name in segments if name % 1000]
        assert len(numbers) == len(set(numbers))
        things += len(numbers)
    assert things > 8
    content = json.loads((root / "toybox" / "panoptic_val.json").read_text())
    assert [c["name"] for c in content["categories"]] == list(words.CLASSES)
    images = {image["id"]: image["file_name"] for image in content["images"]}
    assert all(images[a["image_id"]].removesuffix(".jpg") + ".png" == a["file_name"] for a in content["annotations"])


def test_touching_things_of_a_class_and_divided_stuff() -> None:
    """Ten stars in a small picture: some touch, each is a segment; sand that they divide stays one."""
    bank = TextureBank(1, tiles_per_stuff=1)
    star = words.Thing("plain", "blue", "star")
    scene = render_scene(np.random.default_rng(5), bank, ("sand",), (star,) * 10, 70, 70)
    index = words.CLASSES.index(star.name)
    of_stars = np.unique(scene.segments[scene.labels == index])
    assert len(of_stars) == len(scene.things) > 3 and set(category_of(of_stars).tolist()) == {index}
    assert len(np.unique(scene.segments[scene.labels == words.CLASSES.index("sand")])) == 1
    # Two pixels apart at most (the border between them is ignored), and of different segments.
    touching = {
        (int(a), int(b))
        for step in (1, 2, 3)
        for a, b in zip(scene.segments[:, step:].flat, scene.segments[:, :-step].flat, strict=True)
        if a != b and {a, b} <= set(of_stars.tolist())
    }
    assert touching
    assert ((scene.segments == 0) == (scene.labels == IGNORE)).all()


def test_things_without_a_class_are_void() -> None:
    bank = TextureBank(1, tiles_per_stuff=1)
    unknown = words.Thing("striped", "green", "heart")
    assert unknown.name not in words.CLASSES
    scene = render_scene(np.random.default_rng(0), bank, ("grass",), (unknown,), 64, 64)
    assert np.unique(scene.segments).tolist() == [0, 1000 * (words.CLASSES.index("grass") + 1)]


def test_an_older_copy_gets_them_added(root: Path) -> None:
    folder = dataset.ensure_toybox(root)
    complete = {p.relative_to(root): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    before = forget_panoptic(folder)
    assert dataset.ensure_toybox(root) == folder and not (folder / "panoptic_val").exists(), "only where asked for"
    # What an unfinished run left is replaced.
    (folder / "panoptic_val").mkdir()
    (folder / "panoptic_val" / "stray.png").touch()
    for name in ("toybox_train", "toybox_val_seen"):
        assert len(dataset_records(dataset_info(name), panoptic=True)) == 3
    assert {p.relative_to(root): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == complete
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before} == before
    assert [p.name for p in root.iterdir() if p.name.startswith(".toybox-")] == []


def test_labels_of_another_drawing_are_refused(root: Path) -> None:
    folder = dataset.ensure_toybox(root)
    forget_panoptic(folder)
    path = folder / "annotations" / "val" / "open_00001.png"
    Image.fromarray(np.asarray(Image.open(path))[::-1]).save(path)
    with pytest.raises(UserError, match=r"open_00001\.png' is not what this version of toybox draws"):
        check_dataset(dataset_info("toybox_val_open"), panoptic=True)
    assert not (folder / "panoptic_val").exists()


def _ask(root: str) -> None:
    dataset.NUM_TRAIN, dataset.NUM_VAL_SEEN, dataset.NUM_VAL_OPEN = 3, 3, 5
    dataset.ensure_panoptic(Path(root), "val")


def test_several_processes_add_them_once(root: Path) -> None:
    folder = dataset.ensure_toybox(root)
    forget_panoptic(folder)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_ask, args=(str(root),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(dataset_records(dataset_info("toybox_val_large"), panoptic=True)) == 8


def test_datasets_without_segments_say_so(root: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"'pascal_voc_20_val' has no panoptic labels; set TEST\.PANOPTIC False, INPUT\.TARGET_MASKS class",
    ):
        dataset_info("pascal_voc_20_val").check_panoptic()
