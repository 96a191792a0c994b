"""Sample order, sharding, workers and the dataset checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

import twostage  # noqa: F401
from twostage.config import default_config
from twostage.data import loaders
from twostage.data.loaders import SampleNumbers, SampleStream, TrainingLoader, build_test_loader
from twostage.data.views import dataset_info
from twostage.errors import UserError
from twostage.vocabulary import Vocabulary


def draw(record: dict[str, Any]) -> dict[str, Any]:
    """A mapper that shows which random numbers it would draw."""
    return {**record, "drawn": (np.random.rand(), float(torch.rand(1)))}


def stream(size: int = 7, seed: int = 3) -> SampleStream:
    return SampleStream([{"id": i} for i in range(size)], mapper=draw, seed=seed)


def test_every_epoch_is_a_permutation() -> None:
    samples = [stream()[number]["id"] for number in range(21)]
    epochs = [samples[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [stream(seed=4)[number]["id"] for number in range(21)] != samples


def test_randomness_belongs_to_the_sample_number() -> None:
    assert stream()[5] == stream()[5]
    draws = {stream()[number]["drawn"] for number in range(50)}
    assert len(draws) == 50
    assert stream(seed=4)[5]["drawn"] != stream(seed=3)[5]["drawn"]


def batches(workers: int, count: int, start: int = 0, seed: int = 3) -> list[list[dict[str, Any]]]:
    loader = TrainingLoader(stream(seed=0), total_batch=3, num_workers=workers, facts={})
    loader.start_at(iteration=start, seed=seed)
    iterator = iter(loader)
    return [next(iterator) for _ in range(count)]


def test_order_does_not_depend_on_workers_or_start() -> None:
    whole = batches(0, 6)
    assert [len(batch) for batch in whole] == [3] * 6
    assert batches(2, 6) == whole
    assert batches(0, 2, start=4) == whole[4:]
    assert batches(2, 2, start=4) == whole[4:]


def test_iterating_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(0, 2)
    batches(1, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_ranks_share_every_total_batch() -> None:
    def numbers(rank: int, world: int, start: int = 0) -> list[list[int]]:
        sampler = SampleNumbers(total_batch=6, rank=rank, world_size=world)
        sampler.start = start
        return [batch for batch, _ in zip(sampler, range(3), strict=False)]

    whole = numbers(0, 1)
    assert whole[1] == [6, 7, 8, 9, 10, 11]
    parts = [numbers(rank, 3) for rank in range(3)]
    assert [[number for part in parts for number in part[i]] for i in range(3)] == whole
    assert numbers(1, 3, start=1)[0] == whole[1][2:4]
    with pytest.raises(UserError, match=r"SOLVER.IMS_PER_BATCH is 6 for 4 processes"):
        SampleNumbers(total_batch=6, rank=0, world_size=4)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    name = "loader_test_set"
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    DatasetCatalog.register(name, lambda: [{"file_name": f"{i}.png"} for i in range(5)])
    MetadataCatalog.get(name).set(
        stuff_classes=["a"],
        ignore_label=255,
        image_root=str(tmp_path / "images"),
        sem_seg_root=str(tmp_path / "labels"),
    )
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("workers", [0, 2])
def test_test_loader_keeps_order_and_says_what_to_ask_for(dataset: str, workers: int) -> None:
    cfg = default_config()
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_test_loader(cfg, dataset, mapper=draw)
    assert len(loader) == 5
    entries = list(loader)
    assert [len(batch) for batch in entries] == [1] * 5
    assert [batch[0]["file_name"] for batch in entries] == [f"{i}.png" for i in range(5)]
    assert {batch[0]["vocabulary"] for batch in entries} == {Vocabulary(("a",))}
    assert all("things" not in batch[0] for batch in entries)  # nobody has said which classes are things
    MetadataCatalog.get(dataset).set(thing_ids=[0])
    assert {batch[0]["things"] for batch in build_test_loader(cfg, dataset, mapper=draw)} == {(0,)}


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_file_arrives_as_one_line(dataset: str, workers: int) -> None:
    cfg = default_config()
    cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(UserError) as caught:
        list(build_test_loader(cfg, dataset))
    assert str(caught.value).startswith("image '0.png' does not exist") and "\n" not in str(caught.value)


def test_dataset_errors(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'loader_test_sett' is not known \(did you mean 'loader_test_set'\?\)"):
        dataset_info("loader_test_sett")
    (tmp_path / "labels").rmdir()
    with pytest.raises(UserError) as caught:
        loaders.check_dataset(dataset_info(dataset))
    message = str(caught.value)
    assert str(tmp_path / "labels") in message
    assert "other code has registered" in message and "twostage prepare" not in message
    assert "DATASETS.TRAIN \"('toybox_train',)\"" in message
    with pytest.raises(UserError, match=r"DATASETS.TRAIN is empty"):
        loaders.training_records(())


def test_training_sets_share_their_classes(dataset: str) -> None:
    other = "loader_test_other"
    DatasetCatalog.register(other, lambda: [{"file_name": "x.png"}])
    MetadataCatalog.get(other).set(stuff_classes=["a"], ignore_label=255)
    try:
        records = loaders.training_records([dataset_info(dataset), dataset_info(other)])
        assert [record["file_name"] for record in records] == [*(f"{i}.png" for i in range(5)), "x.png"]
        MetadataCatalog.remove(other)
        MetadataCatalog.get(other).set(stuff_classes=["b"], ignore_label=255)
        with pytest.raises(UserError, match="differ in classes"):
            loaders.training_records([dataset_info(dataset), dataset_info(other)])
    finally:
        DatasetCatalog.remove(other)
        MetadataCatalog.remove(other)


def test_a_training_set_under_two_names_is_told() -> None:
    """It would weigh double; another split of the same folder is another set."""
    names = ("loader_test_one", "loader_test_two", "loader_test_three")
    try:
        for name, labels in zip(names, ("a.png", "a.png", "b.png"), strict=True):
            DatasetCatalog.register(name, lambda labels=labels: [{"file_name": "x.jpg", "sem_seg_file_name": labels}])
            MetadataCatalog.get(name).set(stuff_classes=["a"], ignore_label=255)
        infos = [dataset_info(name) for name in names]
        assert len(loaders.training_records([infos[0], infos[2]])) == 2
        with pytest.raises(UserError, match="'loader_test_one' and 'loader_test_two' are the same pictures and labels"):
            loaders.training_records(infos)
    finally:
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_empty_dataset_is_named(tmp_path: Path) -> None:
    DatasetCatalog.register("loader_test_empty", list)
    try:
        with pytest.raises(UserError, match="'loader_test_empty' holds no images"):
            loaders.dataset_records(dataset_info("loader_test_empty"))
    finally:
        DatasetCatalog.remove("loader_test_empty")


def fragile(record: dict[str, Any]) -> dict[str, Any]:
    """A mapper to which every third record is broken."""
    if record["id"] % 3 == 0:
        raise UserError(f"image '{record['id']}.png' can't be read")
    return draw(record)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_training_files_are_replaced_and_listed_once(workers: int) -> None:
    def loader(seed: int = 3) -> TrainingLoader:
        records = [{"id": i} for i in range(7)]
        stream = SampleStream(records, mapper=fragile, seed=seed, skip_broken=True)
        return TrainingLoader(stream, total_batch=3, num_workers=workers, facts={})

    def batches_of(loader: TrainingLoader) -> list[list[dict[str, Any]]]:
        iterator = iter(loader)
        return [next(iterator) for _ in range(8)]

    first = loader()
    taken = batches_of(first)
    assert all(len(batch) == 3 and all(entry["id"] % 3 for entry in batch) for batch in taken)
    assert sorted(first.broken) == [f"image '{i}.png' can't be read" for i in (0, 3, 6)]
    assert "broken" not in taken[0][0]
    assert batches_of(loader()) == taken  # the substitutes follow from the seed, too
    # What is not broken comes as without skipping.
    plain = SampleStream([{"id": i} for i in range(7)], mapper=draw, seed=3)
    whole = [entry for batch in taken for entry in batch]
    assert all(whole[n] == plain[n] for n in range(24) if plain[n]["id"] % 3)


def test_nothing_but_broken_files_is_an_error() -> None:
    stream = SampleStream([{"id": 0}], mapper=fragile, seed=0, skip_broken=True)
    with pytest.raises(UserError, match=r"20 files in a row are broken.*0\.png"):
        stream[0]
