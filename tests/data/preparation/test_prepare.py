"""Labels from miniature originals, each format against what the facts say, pixel by pixel."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import cv2
import miniatures
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from twostage.data.catalogue import find_benchmark
from twostage.data.catalogue.label_ids import label_ids
from twostage.data.preparation.ade20k_full import reduced_size
from twostage.data.preparation.jobs import Job, run_jobs
from twostage.data.preparation.prepare import prepare
from twostage.data.registration import register_catalogue
from twostage.data.views import dataset_info
from twostage.errors import UserError
from twostage.files import atomic_path

UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def labels_of(name: str) -> dict[str, np.ndarray]:
    """Base name -> label map of every record of a registered name."""
    register_catalogue()
    records = DatasetCatalog.get(name)
    for record in records:
        assert Path(record["file_name"]).is_file()
        assert (
            Path(record["file_name"])
            .name.split("_leftImg8bit")[0]
            .startswith(Path(record["sem_seg_file_name"]).name.split("_gtFine")[0].split(".")[0])
        )
    return {Path(r["sem_seg_file_name"]).stem: read(r["sem_seg_file_name"]) for r in records}


def test_coco_stuff_and_object(root: Path, downloads: Path) -> None:
    values = miniatures.coco(downloads)["val2017"]
    reports = prepare(find_benchmark("coco_stuff"), downloads, workers=1)
    assert {split: report.written for split, report in reports.items()} == {"train": 1, "val": 1}
    assert (root / "coco" / "stuffthingmaps_detectron2" / "val2017" / "000000000009.png").is_file()
    used = [i for i in range(1, 183) if i not in UNUSED]
    for name in ("coco_2017_test_stuff_all_sem_seg", "coco_2017_train_stuff_sem_seg"):
        found = labels_of(name)["000000000009"]
        expected = [used.index(v + 1) if v != 255 and v + 1 in used else 255 for v in values.ravel().tolist()]
        assert found.dtype == np.uint8 and found.ravel().tolist() == expected
    prepare(find_benchmark("COCO-Object"), downloads, workers=1)
    things = [i for i in range(1, 91) if i not in UNUSED]
    expected = [things.index(v + 1) + 1 if v + 1 in things else 0 for v in values.ravel().tolist()]
    assert labels_of("coco_object_val")["000000000009"].ravel().tolist() == expected
    assert len(things) == 80


def test_zero_shot_training_set_is_renumbered(root: Path, downloads: Path) -> None:
    miniatures.coco(downloads)
    prepare(find_benchmark("coco_stuff"), downloads, workers=1)
    prepare(find_benchmark("coco_stuff_base"), downloads, workers=1)
    whole = labels_of("coco_stuff_train")["000000000009"].ravel().tolist()
    seen = dataset_info("coco_stuff_train").seen
    base = labels_of("coco_2017_train_stuff_base_sem_seg")["000000000009"].ravel().tolist()
    assert base == [seen.index(v) if v in seen else 255 for v in whole]


def test_ade20k_150(root: Path, downloads: Path) -> None:
    values = miniatures.ade20k_150(downloads)
    # The folder itself, and the one around it, are both understood.
    prepare(find_benchmark("A-150"), downloads / "ADEChallengeData2016", splits=["val"], workers=1)
    prepare(find_benchmark("A-150"), downloads, splits=["train"], workers=1)
    # Not "ade20k_sem_seg_train": upstream Detectron2 holds that name, with the root it found when it was imported.
    for name in ("ade20k_150_test_sem_seg", "ade20k_150_train"):
        found = labels_of(name)
        assert len(found) == 2
        for labels in found.values():
            assert np.array_equal(labels, values - np.uint8(1)) and labels.dtype == np.uint8
    assert (root / "ADEChallengeData2016" / "annotations_detectron2" / "validation").is_dir()


@pytest.mark.parametrize("shape", [(600, 530), (530, 600), (513, 513), (512, 700), (40, 30)])
def test_ade20k_847(root: Path, downloads: Path, shape: tuple[int, int]) -> None:
    known = [2978, 312, 3148]  # wall, building, the last one
    draw = np.random.default_rng(1)
    ids = np.kron(draw.choice([*known, 0, 5], (shape[0] // 8 + 1, shape[1] // 8 + 1)), np.ones((8, 8), int))
    ids = ids[: shape[0], : shape[1]].astype(np.int32)
    pixels = miniatures.ade20k_full(downloads, ids)
    assert prepare(find_benchmark("A-847"), downloads, workers=1)["val"].written == 1
    height, width = shape
    if min(shape) > 512:
        height, width = (512, round(width / height * 512)) if width >= height else (round(height / width * 512), 512)
    reduced = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST) if (height, width) != shape else ids
    expected = np.full((height, width), 65535)
    for label, object_id in ((0, 2978), (1, 312), (846, 3148)):
        expected[reduced == object_id] = label
    folder = root / "ADE20K_2021_17_01"
    label_file = folder / "annotations_detectron2" / "validation" / "ADE_val_00000001.png"
    found = read(label_file)
    assert np.array_equal(found, expected) and Image.open(label_file).mode == "I;16"
    image = read(folder / "images_detectron2" / "validation" / "ADE_val_00000001.jpg")
    assert image.shape == (height, width, 3)
    source = read(next(downloads.rglob("ADE_val_00000001.jpg")))
    assert pixels.shape == source.shape
    if (height, width) != shape:
        source = cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR)
    Image.fromarray(source).save(root / "again.jpg")
    assert np.array_equal(image, read(root / "again.jpg"))
    assert list(labels_of("ade20k_full_sem_seg_freq_val_all")) == ["ADE_val_00000001"]


def test_ade20k_847_splits_by_file_name(root: Path, downloads: Path) -> None:
    ids = np.full((6, 7), 2978, np.int32)
    miniatures.ade20k_full(downloads, ids)
    miniatures.ade20k_full(downloads, ids, name="ADE_train_00000007", scene="home/attic__x")
    reports = prepare(find_benchmark("ade20k_full_sem_seg_val"), downloads, workers=1)
    assert {split: report.written for split, report in reports.items()} == {"train": 1, "val": 1}
    assert list(labels_of("ade20k_full_sem_seg_train")) == ["ADE_train_00000007"]
    assert reduced_size(512, 4000) == (512, 4000)


def test_pascal_context_from_mat_files(root: Path, downloads: Path) -> None:
    ids = miniatures.context_ids()
    miniatures.context_mats(downloads, ids)
    for name in ("PC-459", "PC-59", "PC-60"):
        reports = prepare(find_benchmark(name), downloads, workers=1)
        assert reports["val"].written == 2 and ("train" not in reports or reports["train"].written == 1)
    full = labels_of("context_459_test_sem_seg")
    assert sorted(full) == list(miniatures.CONTEXT_VAL)
    file = root / "VOCdevkit" / "VOC2010" / "annotations_detectron2" / "pc459_val" / "2008_000002.png"
    assert Image.open(file).mode == "I;16" and np.array_equal(full["2008_000002"], ids - 1)
    kept = sorted(label_ids("pascal_context_59"))
    labels = labels_of("pcontext_sem_seg_val")["2010_006086"]
    assert labels.ravel().tolist() == [kept.index(i) if i in kept else 255 for i in ids.ravel().tolist()]
    labels = labels_of("pascal_context_60_val")["2010_006086"]
    assert labels.ravel().tolist() == [kept.index(i) + 1 if i in kept else 0 for i in ids.ravel().tolist()]
    assert list(labels_of("pcontext_full_sem_seg_train")) == list(miniatures.CONTEXT_TRAIN)


def test_pascal_context_0_is_ignored(root: Path, downloads: Path) -> None:
    ids = miniatures.context_ids()
    ids[0, 0] = 0
    miniatures.context_mats(downloads, ids)
    prepare(find_benchmark("PC-459"), downloads, splits=["val"], workers=1)
    assert labels_of("context_459_test_sem_seg")["2008_000002"][0, 0] == 65535


def test_pascal_context_from_merged_json(root: Path, downloads: Path) -> None:
    layers = miniatures.context_merged(downloads)
    for name in ("PC-59", "PC-60"):
        prepare(find_benchmark(name), downloads, workers=1)
    kept = sorted(label_ids("pascal_context_59"))
    found = {**labels_of("context_59_test_sem_seg"), **labels_of("pcontext_sem_seg_train")}
    with_background = labels_of("pascal_context_60_val")
    assert sorted(found) == sorted(layers) and len(with_background) == 2
    for name, entries in layers.items():
        canvas = np.zeros((6, 8), int)
        for category, mask in entries:
            canvas[mask] = category  # the later one lies on top
        expected = np.vectorize(lambda i: kept.index(i) if i in kept else 255)(canvas)
        assert np.array_equal(found[name], expected)
        if name in with_background:
            assert np.array_equal(with_background[name], np.where(expected == 255, 0, expected + 1))


@pytest.mark.parametrize("augmented_list", [True, False])
def test_pascal_voc(root: Path, downloads: Path, augmented_list: bool) -> None:
    values = miniatures.voc(downloads, augmented_list=augmented_list).astype(int)
    reports = prepare(find_benchmark("PAS-20"), downloads, workers=1)
    assert (reports["val"].written, reports["val"].left_out) == (1, 1)
    expected = np.where((values == 0) | (values == 255), 255, values - 1)
    # A picture of which only ignored pixels are left drops out.
    assert list(labels_of("voc_2012_test_sem_seg")) == ["2007_000033"]
    assert np.array_equal(labels_of("pascalvoc20_sem_seg_val")["2007_000033"], expected)
    train = labels_of("voc_sem_seg_train")
    # Without a list: all augmented labels that val does not have.
    assert sorted(train) == ["2007_000032", *([] if augmented_list else ["2008_000008"]), "2011_003276"]
    prepare(find_benchmark("PAS-20b"), downloads, workers=1)
    with_background = labels_of("voc_2012_test_background_sem_seg")
    assert np.array_equal(with_background["2007_000033"], np.where(values == 0, 20, expected))
    assert (with_background["2007_000039"] == 20).all()
    prepare(find_benchmark("VOC21"), downloads, workers=1)
    assert np.array_equal(labels_of("openvocab_pascal21_sem_seg_val")["2007_000033"], values)
    prepare(find_benchmark("voc_novel_sem_seg_test"), downloads, workers=1, splits=["val"])
    novel = labels_of("voc_novel_sem_seg_test")["2007_000033"]
    assert np.array_equal(novel, np.where((values >= 16) & (values <= 20), values - 16, 255))


def test_cityscapes(root: Path, downloads: Path) -> None:
    values = miniatures.cityscapes(downloads)
    prepare(find_benchmark("cityscapes"), downloads, workers=1)
    train_ids = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    train_ids |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    found = labels_of("cityscapes_val")
    assert list(found) == ["frankfurt_000000_000294_gtFine_labelTrainIds"]
    expected = [train_ids.get(v, 255) for v in values.ravel().tolist()]
    assert next(iter(found.values())).ravel().tolist() == expected


def test_a_stopped_run_goes_on(root: Path, downloads: Path) -> None:
    miniatures.ade20k_150(downloads, count=20)
    benchmark = find_benchmark("A-150")
    first = prepare(benchmark, downloads, splits=["val"], workers=2)["val"]
    assert (first.written, first.kept) == (20, 0)
    folder = dataset_info("ade20k_150_val").label_root
    (folder / "ADE_val_00000003.png").unlink()
    before = (folder / "ADE_val_00000002.png").stat().st_mtime_ns
    again = prepare(benchmark, downloads, splits=["val"], workers=1)["val"]
    assert (again.written, again.kept) == (1, 19)
    assert (folder / "ADE_val_00000002.png").stat().st_mtime_ns == before
    assert not list(folder.glob(".*"))
    assert json.loads((folder / "prepared.json").read_text())["labels"] == 20


def test_broken_originals(root: Path, downloads: Path) -> None:
    miniatures.ade20k_150(downloads, count=3)
    folder = downloads / "ADEChallengeData2016" / "annotations" / "validation"
    (folder / "ADE_val_00000002.png").write_bytes((folder / "ADE_val_00000001.png").read_bytes()[:50])
    Image.fromarray(np.full((10, 16), 200, np.uint8)).save(folder / "ADE_val_00000003.png")
    benchmark = find_benchmark("A-150")
    with pytest.raises(UserError, match=r"ADE_val_0000000[23]\.png.*--skip-broken"):
        prepare(benchmark, downloads, splits=["val"], workers=1)
    report = prepare(benchmark, downloads, splits=["val"], workers=1, skip_broken=True)["val"]
    assert len(report.broken) == 2 and report.written + report.kept == 1
    assert "ADE_val_00000002.png" in report.broken[0] and "value 200" in report.broken[1]


def test_wrong_sources_are_named(root: Path, downloads: Path) -> None:
    benchmark = find_benchmark("coco_stuff")
    with pytest.raises(UserError, match=r"no originals of coco_stuff \(train, val\).*stuffthingmaps_trainval2017\.zip"):
        prepare(benchmark, downloads, workers=1)
    with pytest.raises(UserError, match="has no split 'test'; it has: train, val"):
        prepare(benchmark, downloads, splits=["test"], workers=1)
    with pytest.raises(UserError, match="is no folder"):
        prepare(benchmark, downloads / "nothing", workers=1)
    # Labels that were converted before are no originals.
    values = np.full((4, 4), 200, np.uint8)
    miniatures.save(downloads / "stuffthingmaps" / "val2017" / "a.png", values)
    with pytest.raises(UserError, match="value 200, which stuffthingmaps_trainval2017 never does"):
        prepare(benchmark, downloads, workers=1)


def test_who_leaves_waits_for_the_files_at_work(tmp_path: Path) -> None:
    """A broken original, or SIGTERM, ends the run while other threads write."""
    started = threading.Event()

    def convert(job: Job) -> bool:
        if job.content:
            started.wait()
            raise UserError("a.png is broken")
        with atomic_path(job.target) as temporary:
            temporary.write_bytes(b"half")
            started.set()
            time.sleep(0.3)
        return True

    jobs = [Job(tmp_path, tmp_path / f"{i}.png", content=i == 1) for i in range(3)]
    with pytest.raises(UserError, match=r"a\.png is broken"):
        run_jobs(jobs, convert, workers=2, title="test")
    assert {path.name for path in tmp_path.iterdir()} <= {"0.png", "2.png"}
