"""A folder of one's own: classes files, splits, names by config, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data.catalog import Metadata
from PIL import Image

from twostage.config import load_config
from twostage.data.catalogue.folders import folder_infos, read_folder_classes
from twostage.data.loaders import build_train_loader, check_dataset
from twostage.data.metadata import info_of, metadata_of
from twostage.data.segment_maps import write_panoptic_json, write_segment_map
from twostage.data.views import dataset_info, dataset_view, evaluated_view
from twostage.errors import UserError
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.semantic import SemanticSegmentationEvaluator
from twostage.vocabulary import Vocabulary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`pets` with two pictures and classes.txt."""
    root = tmp_path / "pets"
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(np.ones((6, 8), np.uint8)).save(root / "labels" / f"{name}.png")
    (root / "classes.txt").write_text("cat\nsofa, couch\n\nlawn \n")
    return root


def test_one_config_line_suffices(folder: Path) -> None:
    cfg = load_config(opts=["DATASETS.FOLDERS", f"('{folder}',)", "DATASETS.TEST", "('pets',)"])
    info = dataset_view(cfg, "pets")
    check_dataset(info)
    assert [Path(record["file_name"]).name for record in info.records()] == ["a.png", "b.png"]
    assert Vocabulary.of(info).names == ("cat", "sofa, couch", "lawn")
    assert EvaluatedDataset.of(info).ignore_label == 255
    (folder / "classes.txt").write_text("cat\nsofa\n")
    assert dataset_view(cfg, "pets").class_names == ("cat", "sofa")
    with pytest.raises(UserError, match=r"'pet' is not known \(did you mean 'pets'\?\)"):
        dataset_view(cfg, "pet")


def test_two_configs_may_call_different_folders_alike(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "classes.txt").write_text("tree\nstone\n")
    cfgs = [load_config(opts=["DATASETS.FOLDERS", f"('mine={root}',)"]) for root in (folder, other)]
    for _ in range(2):
        views = [dataset_view(cfg, "mine") for cfg in cfgs]
        assert [view.class_names[0] for view in views] == ["cat", "tree"]
        assert [view.image_root for view in views] == [folder / "images", other / "images"]
    with pytest.raises(UserError, match="'mine' is not known"):
        dataset_view(load_config(), "mine")


def test_splits_and_names(folder: Path) -> None:
    for kind in ("images", "labels"):
        for split in ("train", "val"):
            (folder / kind / split).mkdir()
        for path in [path for path in (folder / kind).iterdir() if path.is_file()]:
            path.rename(folder / kind / "train" / path.name)
    assert [info.name for info in folder_infos([f"mine={folder}"])] == ["mine_train", "mine_val"]
    infos = folder_infos([str(folder)])
    assert [info.name for info in infos] == ["pets_train", "pets_val"]
    assert infos[1].label_root == folder / "labels" / "val"
    with pytest.raises(UserError, match="two folders are called 'pets_train'"):
        folder_infos([str(folder), str(folder)])


def test_classes_json(folder: Path) -> None:
    content = {
        "classes": [
            {"name": "cat", "synonyms": ["kitty"], "color": [1, 2, 3], "thing": True},
            {"name": "lawn", "color": [4, 5, 6], "thing": False},
        ],
        "ignore_label": 99,
    }
    (folder / "classes.json").write_text(json.dumps(content))
    info = folder_infos([str(folder)])[0]
    assert info.class_names == ("cat, kitty", "lawn") and info.things == (0,) and info.ignore_label == 99
    metadata = metadata_of(info)
    assert metadata["stuff_colors"] == [[1, 2, 3], [4, 5, 6]] and metadata["thing_ids"] == [0]
    (folder / "classes.json").write_text(
        json.dumps({"classes": ["cat", ["sofa", "couch"]], "palette": [[0] * 3, [9] * 3]})
    )
    classes = read_folder_classes(folder)
    assert (
        classes.names == ("cat", "sofa, couch") and classes.colors == ((0, 0, 0), (9, 9, 9)) and classes.things is None
    )
    (folder / "classes.json").write_text(json.dumps([f"class {i}" for i in range(300)]))
    info = folder_infos([str(folder)])[0]
    assert (info.label_bits, info.ignore_label, info.num_classes) == (16, 65535, 300)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"classes": ["cat", "Cat"]}, "'Cat' twice"),
        ({"classes": []}, "is empty"),
        ({"classes": ["cat"], "colours": []}, "unknown key 'colours'"),
        ({"classes": ["cat"], "palette": [[0, 0]]}, r"one colour \[R, G, B\]"),
        ({"classes": ["cat"], "palette": [[0, 0, 256]]}, r"one colour \[R, G, B\]"),
        ({"classes": ["cat", "dog"], "ignore_label": 1}, "ignore_label 1 must lie between the 2 classes"),
        ({"classes": [{"label": "cat"}]}, "must have 'name'"),
        ({"classes": [["", "cat"]]}, "an empty synonym"),
        ({"names": ["cat"]}, "list 'classes'"),
        ({"classes": ["cat"], "unseen": "cat"}, "give a list of names"),
        ({"classes": ["cat"], "unseen": ["dog"]}, "'dog', which is none of its classes"),
        ({"classes": ["cat", "dog"], "unseen": ["Dog", "cat"]}, "all classes are unseen"),
        ("cat", "list of names"),
    ],
)
def test_wrong_classes_file(folder: Path, content: object, part: str) -> None:
    (folder / "classes.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=part) as caught:
        read_folder_classes(folder)
    assert "classes.json" in str(caught.value)


def test_wrong_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        folder_infos([str(tmp_path / "nothing")])
    (folder / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"neither classes\.txt"):
        folder_infos([str(folder)])
    with pytest.raises(UserError, match="has no 'images/'"):
        folder_infos([str(tmp_path)])
    (folder / "classes.txt").write_text("cat\n")
    taken = load_config(opts=["DATASETS.FOLDERS", f"('toybox_train={folder}',)"])
    with pytest.raises(UserError, match=r"'toybox_train', which is taken.*my_name="):
        dataset_view(taken, "toybox_train")


def sequences(root: Path) -> None:
    """`b` becomes part of seq/ in both folders."""
    for kind in ("images", "labels"):
        (root / kind / "seq").mkdir()
        (root / kind / "b.png").rename(root / kind / "seq" / "b.png")


def test_folders_beside_files_are_one_dataset(folder: Path) -> None:
    sequences(folder)
    (info,) = folder_infos([str(folder)])
    assert info.name == "pets"
    assert [Path(record["sem_seg_file_name"]).name for record in info.records()] == ["a.png", "b.png"]


def test_splits_are_not_mixed(folder: Path) -> None:
    for kind in ("images", "labels"):
        (folder / kind / "val").mkdir()
        shutil.copy(folder / kind / "a.png", folder / kind / "val")
    with pytest.raises(UserError, match=r"'labels/a\.png' beside 'labels/val/'"):
        folder_infos([str(folder)])
    for name in ("a", "b"):
        (folder / "labels" / f"{name}.png").unlink()
    assert [info.name for info in folder_infos([str(folder)])] == ["pets_val"]
    (folder / "labels" / "train").mkdir()
    with pytest.raises(UserError, match=r"'labels/train/' but no 'images/train/'"):
        folder_infos([str(folder)])


def test_names_from_macos_fit_others(folder: Path) -> None:
    """One name decomposed, the other composed; `._` files beside them are no pictures."""
    (folder / "images" / "a.png").rename(folder / "images" / "cafe\u0301.png")
    (folder / "labels" / "a.png").rename(folder / "labels" / "caf\u00e9.png")
    (folder / "labels" / "._b.png").write_bytes(b"\0\5\x16\7")
    (folder / "labels" / ".ipynb_checkpoints").mkdir()
    shutil.copy(folder / "labels" / "b.png", folder / "labels" / ".ipynb_checkpoints" / "c.png")
    (info,) = folder_infos([str(folder)])
    assert [Path(record["file_name"]).name for record in info.records()] == ["b.png", "cafe\u0301.png"]


def test_black_and_white_masks_are_refused_before_a_run(folder: Path) -> None:
    """255 is ignored: a foreground that is saved as white would never be learnt."""
    for name, values in (("a", (0, 255)), ("b", (255, 0))):
        Image.fromarray(np.resize(np.uint8(values), (6, 8))).save(folder / "labels" / f"{name}.png")
    (info,) = folder_infos([str(folder)])
    with pytest.raises(UserError, match=r"black and white, and 'sofa, couch' is never learnt.*write 1"):
        check_dataset(info)
    (folder / "classes.txt").write_text("cat\n")  # the only class there is, partly labelled
    check_dataset(folder_infos([str(folder)])[0])
    (folder / "classes.txt").write_text("cat\nsofa\n")
    Image.fromarray(np.resize(np.uint8([0, 1, 255]), (6, 8))).save(folder / "labels" / "b.png")
    check_dataset(folder_infos([str(folder)])[0])


def test_two_pictures_of_one_label_are_not_chosen_from(folder: Path) -> None:
    shutil.copy(folder / "images" / "a.png", folder / "images" / "a.jpeg")
    (info,) = folder_infos([str(folder)])
    with pytest.raises(
        UserError, match=r"a\.png' has two pictures, '.*images/a\.jpeg' and '.*images/a\.png'; take one"
    ):
        info.records()
    broken: list[str] = []
    assert [Path(record["file_name"]).name for record in info.records(broken=broken)] == ["b.png"]
    assert len(broken) == 1


@pytest.fixture
def with_unseen(folder: Path) -> CfgNode:
    """`pets` with "sofa, couch" and "lawn" (values 1 and 3) unseen, and a label map of all classes and ignored pixels."""
    content = {
        "classes": [{"name": name, "thing": name != "lawn"} for name in ("cat", "sofa, couch", "dog", "lawn")],
        "unseen": ["Sofa", "lawn"],
    }
    (folder / "classes.json").write_text(json.dumps(content))
    for name in ("a", "b"):
        Image.fromarray(np.array([[0, 1, 2, 3, 255]] * 6, np.uint8)).save(folder / "labels" / f"{name}.png")
        Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(folder / "images" / f"{name}.png")
    opts = ["DATASETS.FOLDERS", f"('{folder}',)", "DATASETS.TRAIN", "('pets_seen',)", "DATASETS.TEST", "('pets',)"]
    return load_config(opts=[*opts, "INPUT.RANDOM_FLIP", "none", "INPUT.MIN_SIZE_TRAIN", "(5,)"])


def test_unseen_classes_are_reported_apart(with_unseen: CfgNode) -> None:
    dataset = EvaluatedDataset.of(evaluated_view(with_unseen, "pets"))
    assert (dataset.seen, dataset.unseen) == ((0, 2), (1, 3))
    evaluator = SemanticSegmentationEvaluator(dataset.info)
    record = dataset.info.records()[0]
    prediction = torch.tensor([[0, 1, 2, 2, 0]] * 6)
    evaluator.process([record], [{"sem_seg_labels": prediction}])
    figures = evaluator.evaluate()["sem_seg"]
    # cat 1, dog 1/2; sofa 1, lawn 0.
    assert figures["mIoU-seen"] == pytest.approx(75.0) and figures["mIoU-unseen"] == pytest.approx(50.0)
    assert figures["mIoU-harmonic"] == pytest.approx(60.0)


def test_training_does_not_see_unseen_classes(with_unseen: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    """Neither their labels nor their names; the others are numbered anew, things among them."""
    loader = build_train_loader(with_unseen)
    assert loader.facts["vocabulary"].names == ("cat", "dog") and loader.facts["things"] == (0, 1)
    entry = loader.stream[0]
    assert entry["sem_seg"].tolist() == [[0, 255, 1, 255, 255]] * 6
    assert entry["instances"].gt_classes.tolist() == [0, 1]
    assert "unseen" not in caplog.text
    with pytest.raises(UserError, match="'pets_seen' is for training; evaluate on 'pets'"):
        evaluated_view(with_unseen, "pets_seen")
    with_unseen.DATASETS.TRAIN = ("pets",)
    assert build_train_loader(with_unseen).stream[0]["sem_seg"].tolist() == [[0, 1, 2, 3, 255]] * 6
    assert "'pets' has labels of its 2 unseen classes, which are learnt; 'pets_seen' leaves them out" in caplog.text


@pytest.fixture
def with_segments(tmp_path: Path) -> CfgNode:
    """`pets` of a panoptic folder with one split: a cat of two objects, a sofa (unseen), a lawn, and void."""
    root = tmp_path / "pets"
    for kind in ("images", "labels", "panoptic"):
        (root / kind / "train").mkdir(parents=True)
    ids = np.array([[1, 1, 2, 3, 4, 0]] * 6)
    classes = [{"name": name, "thing": name != "lawn"} for name in ("cat", "sofa", "lawn")]
    (root / "classes.json").write_text(json.dumps({"classes": classes, "unseen": ["sofa"]}))
    Image.fromarray(np.zeros((6, 6, 3), np.uint8)).save(root / "images" / "train" / "a.png")
    Image.fromarray(np.array([255, 0, 0, 1, 2], np.uint8)[ids]).save(root / "labels" / "train" / "a.png")
    write_segment_map(root / "panoptic" / "train" / "a.png", ids)
    segments = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in ((1, 0), (2, 0), (3, 1), (4, 2))]
    write_panoptic_json(
        root / "panoptic" / "train.json",
        images=[{"id": 1, "file_name": "a.png", "height": 6, "width": 6}],
        annotations=[{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        categories=[{"id": index, **entry} for index, entry in enumerate(classes)],
        info={},
    )
    opts = ["DATASETS.FOLDERS", f"('{root}',)", "DATASETS.TRAIN", "('pets_train_seen',)", "INPUT.RANDOM_FLIP", "none"]
    return load_config(opts=[*opts, "INPUT.MIN_SIZE_TRAIN", "(6,)", "INPUT.TARGET_MASKS", "segment"])


def test_segments_of_unseen_classes_are_no_masks_to_learn(with_segments: CfgNode) -> None:
    """The others keep theirs, with the numbers of the part; the whole set has all of them."""
    seen = build_train_loader(with_segments).stream[0]["instances"]
    assert seen.gt_classes.tolist() == [0, 0, 1]
    assert [mask[0].int().tolist() for mask in seen.gt_masks] == [
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 0],
    ]
    with_segments.DATASETS.TRAIN = ("pets_train",)
    assert build_train_loader(with_segments).stream[0]["instances"].gt_classes.tolist() == [0, 0, 1, 2]


def test_panoptic_quality_of_a_part_for_training_is_refused(with_segments: CfgNode) -> None:
    with_segments.TEST.PANOPTIC = True
    with pytest.raises(UserError, match="'pets_train_seen' is for training; evaluate on 'pets_train'"):
        evaluated_view(with_segments, "pets_train_seen")


@pytest.mark.parametrize("gone", ["images/train", "panoptic/train"])
def test_what_helps_where_a_part_of_a_folder_of_ones_own_is_gone(with_segments: CfgNode, gone: str) -> None:
    info = dataset_view(with_segments, "pets_train_seen")
    shutil.rmtree(Path(info.benchmark) / gone)
    with pytest.raises(UserError, match=f"'.*{gone}' is missing.*own.*--coco FILE") as told:
        check_dataset(info, panoptic=True)
    assert "--source" not in str(told.value)


def test_what_helps_where_files_are_missing_fits_who_makes_them(tmp_path: Path, monkeypatch) -> None:
    """Every kind of dataset: a benchmark is prepared, toybox writes itself, others' code knows its folders."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "file" / "datasets"))
    (tmp_path / "file").write_text("")
    other = Metadata(name="theirs", stuff_classes=["a"], ignore_label=255, image_root=str(tmp_path / "nowhere"))
    for info, cure in (
        (dataset_info("ade20k_150_val"), "`twostage prepare ade20k_150 --source DIR`"),
        (dataset_info("toybox_train"), "written on first use: see that .* can be written"),
        (info_of(other, list), "other code has registered this dataset"),
    ):
        with pytest.raises(UserError, match=f"is missing; .*{cure}"):
            check_dataset(info)
        assert info.name == "ade20k_150_val" or "prepare" not in info.cure
