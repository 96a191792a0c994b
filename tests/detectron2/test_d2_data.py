"""Catalogs, samplers, loaders and the mapper."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    MapDataset,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.datasets import load_sem_seg
from detectron2.data.detection_utils import SizeMismatchError, check_image_size, check_metadata_consistency, read_image
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils import comm
from PIL import Image


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, [4, 0, 1, 3, 2, 3, 4, 0, 1, 2, 2, 4]),
        (-1, [1, 3, 4, 2, 0, 0, 1, 3, 2, 4, 4, 1]),
        (42, [2, 4, 3, 0, 1, 1, 4, 3, 2, 0, 0, 2]),
    ],
)
def test_training_sampler(seed: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(islice(TrainingSampler(5, seed=seed), 12)) == expected
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    assert list(islice(TrainingSampler(5, seed=seed), 6)) == expected[1::2]


def test_training_sampler_refuses() -> None:
    with pytest.raises(TypeError):
        TrainingSampler(2.5, seed=0)
    with pytest.raises(ValueError):
        TrainingSampler(0, seed=0)
    assert list(islice(TrainingSampler(3, shuffle=False, seed=0), 4)) == [0, 1, 2, 0]


@pytest.mark.parametrize(("world", "expected"), [(3, [4, 3, 3]), (4, [3, 3, 2, 2])])
def test_inference_sampler(world: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []
    for rank in range(world):
        monkeypatch.setattr(comm, "get_world_size", lambda: world)
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        sampler = InferenceSampler(10)
        parts.append(list(sampler))
        assert len(sampler) == len(parts[-1])
    assert [len(part) for part in parts] == expected and [index for part in parts for index in part] == list(range(10))


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[str]:
    """Five images of 20x30 (numbers 0 to 4 in the red channel), registered as "d2test"."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(5):
        image = np.full((20, 30, 3), (number, 10, 20), np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(np.full((20, 30), number % 2, np.uint8)).save(tmp_path / "labels" / f"{number}.png")
    DatasetCatalog.register(
        "d2test", lambda: load_sem_seg(str(tmp_path / "labels"), str(tmp_path / "images"), image_ext="png")
    )
    yield "d2test"
    DatasetCatalog.remove("d2test")
    if "d2test" in MetadataCatalog:
        MetadataCatalog.remove("d2test")


def test_catalogs(dataset: str) -> None:
    assert dataset in DatasetCatalog and dataset in DatasetCatalog.list()
    assert DatasetCatalog.get(dataset) is not DatasetCatalog.get(dataset)
    with pytest.raises(AssertionError):
        DatasetCatalog.register(dataset, list)
    with pytest.raises(KeyError, match=dataset):
        DatasetCatalog.get("no such dataset")
    metadata = MetadataCatalog.get(dataset)
    assert metadata.set(stuff_classes=["a", "b"]) is MetadataCatalog.get(dataset)
    metadata.stuff_classes = ["a", "b"]
    with pytest.raises(AssertionError, match="cannot be set to a different value"):
        metadata.stuff_classes = ["b"]
    with pytest.raises(AttributeError, match="stuff_classes"):
        _ = metadata.nothing
    assert metadata.get("nothing", 4) == 4
    assert metadata.as_dict() == {"name": dataset, "stuff_classes": ["a", "b"]}
    with pytest.raises(AssertionError):
        MetadataCatalog.get("")
    check_metadata_consistency("stuff_classes", [dataset])
    MetadataCatalog.get("d2other").stuff_classes = ["b"]
    with pytest.raises(ValueError):
        check_metadata_consistency("stuff_classes", [dataset, "d2other"])
    MetadataCatalog.remove("d2other")


def test_load_sem_seg_pairs_what_both_have(dataset: str, tmp_path: Path) -> None:
    records = DatasetCatalog.get(dataset)
    assert [Path(r["file_name"]).name for r in records] == [f"{i}.png" for i in range(5)]
    assert all(Path(r["file_name"]).name == Path(r["sem_seg_file_name"]).name for r in records)
    (tmp_path / "images" / "2.png").unlink()
    assert [Path(r["sem_seg_file_name"]).stem for r in DatasetCatalog.get(dataset)] == ["0", "1", "3", "4"]
    with pytest.raises(AssertionError):
        load_sem_seg(str(tmp_path / "labels"), str(tmp_path / "images"), gt_ext="tif")


def test_read_image(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "plain.png")
    np.testing.assert_array_equal(read_image(str(tmp_path / "plain.png"), "RGB"), pixels)
    np.testing.assert_array_equal(read_image(str(tmp_path / "plain.png"), "BGR"), pixels[:, :, ::-1])
    assert read_image(str(tmp_path / "plain.png"), "L").shape == (2, 4, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(str(tmp_path / "turned.png"), "RGB"), np.rot90(pixels, -1))
    record = {"file_name": "x"}
    check_image_size(record, pixels)
    assert (record["height"], record["width"]) == (2, 4)
    with pytest.raises(SizeMismatchError):
        check_image_size({"height": 2, "width": 5}, pixels)


def config(dataset: str) -> object:
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (dataset,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (40,), 40
    cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = 2, 0
    return cfg


def test_mapper(dataset: str) -> None:
    cfg = config(dataset)
    cfg.INPUT.FORMAT, cfg.INPUT.RANDOM_FLIP = "RGB", "none"
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [10, 10]
    record = DatasetCatalog.get(dataset)[3]
    mapped = DatasetMapper(cfg, True)(record)
    assert mapped["image"].shape == (3, 40, 40) and mapped["image"].dtype == torch.uint8
    assert mapped["image"][:, 0, 0].tolist() == [3, 10, 20]
    assert mapped["sem_seg"].dtype == torch.int64 and (mapped["sem_seg"] == 1).all()
    assert (mapped["height"], mapped["width"]) == (20, 30), "the size of the file"
    assert set(record) == {"file_name", "sem_seg_file_name"}, "the record is left alone"
    assert DatasetMapper(cfg, False)(record)["image"].shape == (3, 40, 60)


@pytest.mark.parametrize("workers", [0, 2])
def test_train_loader_order(dataset: str, workers: int) -> None:
    cfg = config(dataset)
    cfg.DATALOADER.NUM_WORKERS, cfg.INPUT.FORMAT = workers, "RGB"
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    batches = list(islice(iter(build_detection_train_loader(cfg)), 4))
    numbers = [[int(entry["image"][0, 0, 0]) for entry in batch] for batch in batches]
    assert numbers == [[4, 0], [1, 3], [2, 3], [4, 0]], "batches do not depend on the number of workers"


def test_test_loader(dataset: str) -> None:
    cfg = config(dataset)
    loader = build_detection_test_loader(cfg, dataset)
    assert len(loader) == 5
    assert [Path(batch[0]["file_name"]).stem for batch in loader] == list("01234")
    pairs = build_detection_test_loader(list(range(5)), mapper=lambda x: x * x, batch_size=2)
    assert list(pairs) == [[0, 1], [4, 9], [16]]


def test_loaders_of_explicit_arguments() -> None:
    wide, high = {"width": 3, "height": 2}, {"width": 2, "height": 3}
    records = [wide | {"n": 0}, high | {"n": 1}, wide | {"n": 2}, high | {"n": 3}]
    loader = build_detection_train_loader(
        records, mapper=None, sampler=TrainingSampler(4, shuffle=False, seed=0), total_batch_size=2
    )
    assert [[r["n"] for r in batch] for batch in islice(iter(loader), 3)] == [[0, 2], [1, 3], [0, 2]]
    with pytest.raises(AssertionError):
        build_detection_train_loader(records, mapper=None, total_batch_size=0)


def test_lists_and_skipped_samples() -> None:
    items = [{"n": i} for i in range(6)]
    data = DatasetFromList(items)
    data[3]["n"] = 100
    assert data[3] == {"n": 3} and len(data) == 6 and data[0] == {"n": 0}
    mapped = MapDataset(data, lambda item: item["n"] if item["n"] % 2 else None)
    assert [mapped[i] for i in (1, 3, 5)] == [1, 3, 5]
    assert all(mapped[i] % 2 for i in (0, 2, 4))
