"""The toybox world: class lists, same seed same bytes, labels that fit the pictures, splits without leaks."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from twostage.data import registration
from twostage.data.toybox import captioned as captions
from twostage.data.toybox import dataset, words
from twostage.data.toybox.scenes import IGNORE, render_scene
from twostage.data.toybox.splits import toybox_infos
from twostage.data.toybox.textures import TILE, TextureBank
from twostage.data.toybox.things import coverage, outline
from twostage.errors import UserError


@pytest.fixture(scope="module")
def bank() -> TextureBank:
    return TextureBank(3, tiles_per_stuff=2)


@pytest.fixture
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few scenes instead of 1,350."""
    monkeypatch.setattr(dataset, "NUM_TRAIN", 12)
    monkeypatch.setattr(dataset, "NUM_VAL_SEEN", 4)
    monkeypatch.setattr(dataset, "NUM_VAL_OPEN", 6)
    monkeypatch.setattr(dataset, "NUM_TRAIN_OPEN", 6)


def _digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _label_values(folder: Path, pattern: str) -> set[int]:
    maps = [cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in sorted(folder.glob(pattern))]
    assert maps
    return {int(v) for labels in maps for v in np.unique(labels)} - {IGNORE}


def test_class_lists() -> None:
    assert len(words.SEEN_CLASSES) == 36
    assert len(words.UNSEEN_CLASSES) == 18
    assert len(set(words.CLASSES)) == 54, "seen and unseen classes must be disjoint and unique"
    # Every word of a new combination is known from a seen class, except the four new shapes.
    for place in range(3):
        known = {thing[place] for thing in words.SEEN_THINGS}
        assert {thing[place] for thing in words.UNSEEN_THINGS[:12]} <= known
    new = [thing.shape for thing in words.UNSEEN_THINGS[12:]]
    assert sorted(new) == sorted(words.NEW_SHAPES)
    assert not set(new) & {thing.shape for thing in words.SEEN_THINGS}


def test_a_look_does_not_tell_the_class() -> None:
    """Every look (attribute and colour) belongs to one unseen thing and to one or two seen ones."""
    looks = [thing[:2] for thing in words.SEEN_THINGS]
    unseen = [thing[:2] for thing in words.UNSEEN_THINGS]
    assert len(set(unseen)) == len(unseen) == 16
    assert all(looks.count(look) in (1, 2) for look in unseen)


def test_large_vocabulary_extends_the_open_one() -> None:
    large = words.large_vocabulary()
    assert large[:54] == words.CLASSES
    assert len(large) == len(set(large)) > 500


def test_same_seed_same_bytes(tmp_path: Path, small_world: None) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        dataset.write_toybox(tmp_path / name, seed=seed, progress=False)
    a, b, c = (_digest(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a)
    assert len(a) == 3 * 22 + 2 + 1  # pictures, labels, segments; two lists of segments; the version


def test_only_open_scenes_show_unseen_classes(tmp_path: Path, small_world: None) -> None:
    dataset.write_toybox(tmp_path, progress=False)
    seen = len(words.SEEN_CLASSES)
    assert max(_label_values(tmp_path / "annotations/train", "*.png")) < seen
    assert max(_label_values(tmp_path / "annotations/val", "seen*.png")) < seen
    assert max(_label_values(tmp_path / "annotations/val", "open*.png")) >= seen


def test_open_training_scenes_are_others_and_show_every_kind(tmp_path: Path, small_world: None) -> None:
    for name in ("a", "b"):
        dataset.write_toybox_open(tmp_path / name, seed=5, progress=False)
    digest = _digest(tmp_path / "a")
    assert digest == _digest(tmp_path / "b") and len(digest) == 2 * 6 + 1
    values = _label_values(tmp_path / "a/annotations/train", "*.png")
    assert min(values) < len(words.SEEN_CLASSES) <= max(values)
    theirs = {plan[1:3] for plan in dataset.plan_scenes(0, "open", 100)}
    assert not theirs & {plan[1:3] for plan in dataset.plan_scenes(0, "train_open", 100)}


def test_open_training_scenes_write_themselves(
    tmp_path: Path, small_world: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    records = DatasetCatalog.get("toybox_train_open")
    assert len(records) == 6 and all(Path(record["file_name"]).is_file() for record in records)
    info = {info.name: info for info in toybox_infos()}["toybox_train_open"]
    assert info.class_names == words.CLASSES and info.unseen == tuple(range(36, 54)) and info.panoptic is None
    assert not (tmp_path / "toybox").exists()


def test_pictures_and_labels_pair_up(tmp_path: Path, small_world: None) -> None:
    dataset.write_toybox(tmp_path, progress=False)
    for split in ("train", "val"):
        pictures = {p.stem: p for p in (tmp_path / "images" / split).glob("*.jpg")}
        labels = {p.stem: p for p in (tmp_path / "annotations" / split).glob("*.png")}
        assert pictures.keys() == labels.keys()
        for stem, path in pictures.items():
            picture, label = cv2.imread(str(path)), cv2.imread(str(labels[stem]), cv2.IMREAD_UNCHANGED)
            assert picture.shape[:2] == label.shape
            assert label.ndim == 2


def test_plans_use_every_class_about_equally() -> None:
    plans = dataset.plan_scenes(0, "open", 100)
    counts = {thing: sum(thing in plan.things for plan in plans) for thing in words.UNSEEN_THINGS}
    assert max(counts.values()) - min(counts.values()) <= 2
    assert all(thing in words.SEEN_THINGS for plan in dataset.plan_scenes(0, "train", 50) for thing in plan.things)


def test_labels_lie_where_the_thing_is(bank: TextureBank) -> None:
    """A plain thing of a colour that its ground lacks: labelled pixels have that colour, the others do not."""
    blue = words.Thing("plain", "blue", "square")
    scene = render_scene(np.random.default_rng(0), bank, ("sand",), (blue,), 96, 128)
    labelled = scene.labels == words.CLASSES.index(blue.name)
    ground = scene.labels == words.CLASSES.index("sand")
    assert labelled.sum() > 30
    blueness = scene.image[..., 2].astype(int) - scene.image[..., 1]
    assert np.median(blueness[labelled]) > 40
    assert np.median(blueness[ground]) < 0
    # Only the thin border of the thing is ignored.
    border = scene.labels == IGNORE
    assert 0 < border.sum() < labelled.sum()
    assert (labelled | ground | border).all()


def test_coverage_is_the_area_of_the_shape() -> None:
    # OpenCV's antialiased outline lies outside the polygon: about half a pixel all around.
    halo = 0.65
    square = coverage(outline("square", (32.0, 32.0), 20.0, 0.3), 64, 64)
    side = 2 * 0.84 * 20
    assert square.sum() == pytest.approx(side**2 + 4 * side * halo, rel=0.03)
    ring = coverage(outline("ring", (32.0, 32.0), 20.0, 0.0), 64, 64)
    area, border = np.pi * 20**2 * (1 - 0.56**2), 2 * np.pi * 20 * 1.56
    assert ring.sum() == pytest.approx(area + border * halo, rel=0.04)
    assert ring[32, 32] == 0, "a ring has a hole"


def test_every_texture_and_thing_can_be_drawn(bank: TextureBank) -> None:
    rng = np.random.default_rng(1)
    means = []
    for stuff in words.STUFF:
        piece = bank.cut(rng, stuff, TILE // 4, TILE // 2)
        assert piece.shape == (TILE // 4, TILE // 2, 3)
        assert np.isfinite(piece).all()
        means.append(piece.mean((0, 1)))
    distances = np.linalg.norm(np.array(means)[:, None] - np.array(means), axis=-1)
    assert (distances + np.eye(len(means)) > 0.01).all(), "no two textures look the same on average"
    for shape in words.SHAPES:
        thing = words.Thing("striped", "red", shape)
        assert len(render_scene(rng, bank, ("grass",), (thing,), 64, 64).things) == 1


def test_captions_name_what_was_drawn(bank: TextureBank) -> None:
    rng = np.random.default_rng(2)
    pictures = [captions.render_captioned(rng, bank, 48) for _ in range(60)]
    for picture in pictures:
        text = captions.sentence(rng, picture.mentions, picture.size)
        assert all(captions.NAMES[index] in text for index in picture.mentions)
    star = captions.NAMES.index("striped blue star")
    assert {captions.NAMES[i] for i in captions.less_exact(star)} == {"blue star", "striped star", "star"}
    assert captions.less_exact(0) == (), "stuff has no less exact name"


def _start(root: str, counts: tuple[int, int, int]) -> None:
    dataset.NUM_TRAIN, dataset.NUM_VAL_SEEN, dataset.NUM_VAL_OPEN = counts
    dataset.ensure_toybox(Path(root))


def test_several_processes_write_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_start, args=(str(tmp_path), (8, 2, 2))) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert dataset.is_current(tmp_path / "toybox")
    assert len(list((tmp_path / "toybox/images/train").glob("*.jpg"))) == 8
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".toybox-")] == [], "nothing is left beside it"


def test_an_older_version_is_replaced(tmp_path: Path, small_world: None) -> None:
    folder = dataset.ensure_toybox(tmp_path)
    (folder / "images/train/stray.jpg").write_bytes(b"")
    assert dataset.ensure_toybox(tmp_path) == folder
    assert (folder / "images/train/stray.jpg").exists(), "a current copy is left alone"
    (folder / "version.json").write_text(json.dumps({"version": 0, "seed": 0}))
    dataset.ensure_toybox(tmp_path)
    assert dataset.is_current(folder)
    assert not (folder / "images/train/stray.jpg").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="DETECTRON2_DATASETS"):
        dataset.ensure_toybox(blocked / "datasets")


def test_registered_splits(tmp_path: Path, small_world: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    registration.register_catalogue()
    records = {info.name: DatasetCatalog.get(info.name) for info in toybox_infos()}
    assert [len(records[f"toybox_{n}"]) for n in ("train", "val_seen", "val_open", "val_large")] == [12, 4, 10, 10]
    first = records["toybox_val_open"][0]
    label = cv2.imread(first["sem_seg_file_name"], cv2.IMREAD_UNCHANGED)
    assert label.shape == cv2.imread(first["file_name"]).shape[:2]
    assert {Path(r["file_name"]).name[:4] for r in records["toybox_val_seen"]} == {"seen"}
    open_split = MetadataCatalog.get("toybox_val_open")
    assert open_split.stuff_classes == list(words.CLASSES)
    assert open_split.seen_classes == list(range(36))
    assert open_split.unseen_classes == list(range(36, 54))
    assert len(MetadataCatalog.get("toybox_train").stuff_classes) == 36
    assert MetadataCatalog.get("toybox_val_large").stuff_classes == list(words.large_vocabulary())
    assert {open_split.stuff_classes[i] for i in open_split.thing_ids} == set(words.CLASSES) - set(words.STUFF)
    registration.register_catalogue()  # once more changes nothing
