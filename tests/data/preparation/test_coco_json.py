"""A folder of one's own from a COCO json: what becomes of masks, segments, categories, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twostage.config import load_config
from twostage.data.catalogue.folders import folder_infos
from twostage.data.loaders import build_train_loader, dataset_records
from twostage.data.preparation.coco_json import prepare_coco
from twostage.data.preparation.verify import verify
from twostage.data.segment_maps import write_segment_map
from twostage.data.views import dataset_view
from twostage.errors import UserError
from twostage.results.coco import Part, coco_json
from twostage.results.shapes import rle

SIZE = (6, 8)
# Ids with gaps, not in order.
CATEGORIES = [{"id": 7, "name": "sky"}, {"id": 2, "name": "cat"}]


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def write(folder: Path, content: dict[str, Any], name: str = "coco.json") -> Path:
    (folder / "photos" / "deep").mkdir(parents=True, exist_ok=True)
    for picture in ("a.jpg", "deep/b.jpg", "c.jpg"):
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / "photos" / picture)
    (folder / name).write_text(json.dumps(content))
    return folder / name


def instances(*annotations: dict[str, Any]) -> dict[str, Any]:
    names = ("a.jpg", "deep/b.jpg", "c.jpg")
    images = [{"id": i, "file_name": name, "height": 6, "width": 8} for i, name in enumerate(names)]
    numbered = [{"id": 10 + i, **entry} for i, entry in enumerate(annotations)]
    return {"images": images, "categories": CATEGORIES, "annotations": numbered}


def make(tmp_path: Path, path: Path, **changes: Any) -> Any:
    settings = {"split": "train", "segments": None, "workers": 1, "skip_broken": False} | changes
    return prepare_coco(tmp_path / "pets", path, tmp_path / "photos", **settings)


def label(tmp_path: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(tmp_path / "pets" / "labels" / "train" / f"{name}.png"))


def test_polygons_and_run_lengths(tmp_path: Path) -> None:
    """Classes in the order of ids; the smaller mask above; nothing annotated is ignored."""
    uncompressed = {"size": list(SIZE), "counts": [0, 6, 42]}  # the first column
    content = instances(
        {"image_id": 0, "category_id": 2, "segmentation": rle(box(1, 3, 2, 4))},
        {"image_id": 0, "category_id": 7, "segmentation": [[1, 0, 7, 0, 7, 4, 1, 4]]},
        {"image_id": 1, "category_id": 7, "segmentation": uncompressed, "iscrowd": 1},
    )
    report = make(tmp_path, write(tmp_path, content))
    assert (report.written, report.left_out) == (2, 1)
    expected = np.full(SIZE, 255)
    expected[0:4, 1:7] = 1
    expected[1:3, 2:4] = 0
    assert np.array_equal(label(tmp_path, "a"), expected)
    assert np.array_equal(label(tmp_path, "deep/b"), np.where(box(0, 6, 0, 1), 1, 255))
    (info,) = folder_infos([str(tmp_path / "pets")])
    assert info.class_names == ("cat", "sky") and info.things is None and info.panoptic is None
    assert [Path(record["file_name"]).name for record in info.records()] == ["a.jpg", "b.jpg"]
    assert verify(info, workers=1).problems == []
    # Again: nothing is made twice. Another json's labels are not mixed with these.
    assert make(tmp_path, tmp_path / "coco.json").kept == 2
    other = write(
        tmp_path, instances({"image_id": 0, "category_id": 2, "segmentation": rle(box(0, 6, 0, 8))}), "b.json"
    )
    with pytest.raises(UserError, match="holds labels that were not made of"):
        make(tmp_path, other)
    assert make(tmp_path, other, split="val").written == 1


def test_what_twostage_writes_comes_back(tmp_path: Path) -> None:
    """The json of `twostage segment --format coco` is one that `prepare` reads."""
    parts = [Part(1, box(0, 6, 0, 5)), Part(0, box(0, 6, 5, 8))]
    content = coco_json(parts, ["sky", "cat"], SIZE, file_name="a.jpg")
    make(tmp_path, write(tmp_path, content))
    assert np.array_equal(label(tmp_path, "a"), np.where(box(0, 6, 0, 5), 1, 0))


def test_segments(tmp_path: Path) -> None:
    """Panoptic labels stay beside the label maps, with our classes, and train by segment."""
    categories = [{"id": 7, "name": "sky", "isthing": 0}, {"id": 2, "name": "cat", "isthing": 1}]
    ids = np.where(box(0, 2, 0, 8), 900, 0) + np.where(box(2, 6, 0, 3), 70_000, 0) + np.where(box(2, 6, 5, 8), 5, 0)
    listed = [{"id": 900, "category_id": 7}, {"id": 70_000, "category_id": 2}, {"id": 5, "category_id": 2}]
    content = instances({"image_id": 0, "file_name": "a.png", "segments_info": listed}) | {"categories": categories}
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=r"the panoptic PNGs of .* --segments DIR"):
        make(tmp_path, path)
    (tmp_path / "coco").mkdir()
    write_segment_map(tmp_path / "coco" / "a.png", ids)
    assert make(tmp_path, path).written == 1
    assert np.array_equal(label(tmp_path, "a"), np.select([ids == 900, ids > 0], [1, 0], 255))
    (info,) = folder_infos([str(tmp_path / "pets")])
    assert info.things == (0,) and verify(info, workers=1).problems == []
    (record,) = dataset_records(info, panoptic=True)
    assert [segment["category_id"] for segment in record["segments_info"]] == [1, 0, 0]
    opts = ["DATASETS.FOLDERS", f"('{tmp_path / 'pets'}',)", "DATASETS.TRAIN", "('pets_train',)"]
    cfg = load_config(opts=[*opts, "INPUT.TARGET_MASKS", "segment", "DATALOADER.NUM_WORKERS", "0"])
    assert dataset_view(cfg, "pets_train").panoptic is not None
    assert build_train_loader(cfg).stream[0]["instances"].gt_classes.tolist() == [1, 0, 0]
    listed.pop()
    shutil.rmtree(tmp_path / "pets" / "labels" / "train")
    with pytest.raises(UserError, match="holds id 5, which its json does not list"):
        make(tmp_path, write(tmp_path, content))


@pytest.mark.parametrize(
    ("annotation", "wrong"),
    [
        ({"image_id": 5, "category_id": 2}, "annotation of picture 5, which it does not list"),
        ({"image_id": 0, "category_id": 3}, "annotation of category 3, which it does not list"),
        ({"image_id": 0, "category_id": 2, "bbox": [0, 0, 2, 2]}, "annotation 10 .* has no mask"),
        ({"image_id": 0, "category_id": 2, "segmentation": rle(np.ones((8, 6), bool))}, r"a mask of \[8, 6\]"),
        ({"image_id": 0, "category_id": 2, "segmentation": [["a"]]}, "neither polygons nor run lengths"),
        ({"category_id": 2}, "can't be read as COCO json"),
    ],
)
def test_broken_annotations_are_named(tmp_path: Path, annotation: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        make(tmp_path, write(tmp_path, instances(annotation)))


def test_broken_pictures_are_left_out_where_that_is_asked(tmp_path: Path) -> None:
    whole = {"category_id": 2, "segmentation": rle(box(0, 6, 0, 8))}
    path = write(tmp_path, instances({"image_id": 0, **whole}, {"image_id": 1, **whole}))
    (tmp_path / "photos" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"picture '.*a\.jpg' of the json does not exist"):
        make(tmp_path, path)
    report = make(tmp_path, path, skip_broken=True)
    assert len(report.broken) == 1 and report.written + report.kept == 1


def test_what_is_there_is_not_mixed(tmp_path: Path) -> None:
    whole = {"image_id": 0, "category_id": 2, "segmentation": rle(box(0, 6, 0, 8))}
    path = write(tmp_path, instances(whole))
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "classes.txt").write_text("dog\nsky\n")
    with pytest.raises(UserError, match="has other classes than"):
        make(tmp_path, path)
    (tmp_path / "pets" / "classes.txt").write_text("cat\nsky\n")
    (tmp_path / "pets" / "images" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="is there and is not"):
        make(tmp_path, path)
    for change in ({"file_name": ""}, {"file_name": 3}, {"height": 0}):
        broken = instances(whole)
        broken["images"][0].update(change)
        with pytest.raises(UserError, match="can't be read as COCO json"):
            make(tmp_path, write(tmp_path, broken, "c.json"), split="val")
    with pytest.raises(UserError, match="which it lies in"):
        prepare_coco(
            tmp_path / "photos" / "mine",
            path,
            tmp_path / "photos",
            split="val",
            segments=None,
            workers=1,
            skip_broken=False,
        )
    twice = instances(whole) | {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "Cat"}]}
    with pytest.raises(UserError, match="'Cat' twice"):
        make(tmp_path, write(tmp_path, twice, "d.json"), split="val")


def test_names_are_paths_of_another_place(tmp_path: Path) -> None:
    """Programs write them from the root, or from where they ran; the longest end that is there counts."""
    whole = {"category_id": 2, "segmentation": rle(box(0, 6, 0, 8))}
    content = instances({"image_id": 0, **whole}, {"image_id": 1, **whole})
    content["images"][0]["file_name"] = "/data/photos/a.jpg"
    content["images"][1]["file_name"] = "..\\photos\\deep\\b.jpg"
    assert make(tmp_path, write(tmp_path, content)).written == 2
    assert (label(tmp_path, "a") == 0).all() and (label(tmp_path, "deep/b") == 0).all()
    content["images"][1]["file_name"] = "elsewhere/a.jpg"
    with pytest.raises(UserError, match=r"lists '/data/photos/a\.jpg' and 'elsewhere/a\.jpg', which are the same file"):
        make(tmp_path, write(tmp_path, content, "b.json"), split="val")
