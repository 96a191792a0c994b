"""Panoptic labels from miniature originals, against what the facts say pixel by pixel; and what `verify` finds in them."""

from __future__ import annotations

import json
from pathlib import Path

import miniatures
import numpy as np
import pytest
from PIL import Image

from twostage.data.catalogue import find_benchmark
from twostage.data.catalogue.label_ids import label_ids
from twostage.data.catalogue.panoptic_labels import PanopticLabels
from twostage.data.loaders import dataset_records
from twostage.data.preparation.prepare import prepare
from twostage.data.preparation.verify import verify
from twostage.data.segment_maps import read_segment_map, write_segment_map
from twostage.data.views import dataset_info
from twostage.errors import UserError

# The things of ADE20K's instance challenge in ascending order: category 1, 2, 3, 4 -> class, as published.
FIRST_THINGS = [7, 8, 10, 12]


def classes_of(record: dict) -> tuple[np.ndarray, dict[int, dict]]:
    """Class of each pixel (-1 in no segment) and the segments by id."""
    ids = read_segment_map(record["pan_seg_file_name"])
    segments = {segment["id"]: segment for segment in record["segments_info"]}
    assert set(np.unique(ids).tolist()) - {0} == set(segments)
    for name, segment in segments.items():
        assert segment["area"] == (ids == name).sum()
    return np.vectorize(lambda i: segments[i]["category_id"] if i else -1)(ids), segments


def test_ade20k(root: Path, downloads: Path) -> None:
    semantic = miniatures.ade20k_150(downloads).astype(int)
    pairs = miniatures.ade20k_instances(downloads, semantic).astype(int)
    report = prepare(find_benchmark("A-150"), downloads, splits=["val"], workers=2)["val"]
    assert report.panoptic is not None and (report.panoptic.written, report.panoptic.kept) == (2, 0)
    things = dataset_info("ade20k_panoptic_val").things
    assert things is not None and list(things[:4]) == FIRST_THINGS and len(things) == 100 and things[99] == 149
    # Things of the label maps that no instance covers are void; instances lie on top, of stuff as well.
    expected = np.where(np.isin(semantic - 1, things) | (semantic == 0), -1, semantic - 1)
    expected[0, 2:6], expected[3, 3], expected[9, 10:] = 12, 7, 149
    for name in ("ade20k_panoptic_val", "openvocab_ade20k_panoptic_val", "ade20k_150_val"):
        records = dataset_records(dataset_info(name), panoptic=True)
        assert [Path(r["pan_seg_file_name"]).name for r in records] == ["ADE_val_00000001.png", "ADE_val_00000002.png"]
        classes, segments = classes_of(records[0])
        assert np.array_equal(classes, expected)
        # The two persons that touch are two; no crowds.
        assert [s["area"] for s in segments.values() if s["category_id"] == 12] == [2, 2]
        assert not any(s["iscrowd"] for s in segments.values())
        stuff = [s["category_id"] for s in segments.values() if s["category_id"] not in things]
        assert len(stuff) == len(set(stuff)) == len(set(np.unique(expected)) - {-1} - set(things))
    numbers = np.unique(pairs[..., 1])
    assert len([s for s in segments.values() if s["category_id"] in things]) == len(numbers) - 1 == 4
    content = json.loads((root / "ADEChallengeData2016" / "ade20k_panoptic_val.json").read_text())
    assert content["categories"][12] == {"id": 12, "name": "person", "isthing": 1} and len(content["categories"]) == 150
    assert content["images"][0] == {
        "id": "ADE_val_00000001", "file_name": "ADE_val_00000001.jpg", "height": 10, "width": 16
    }  # fmt: skip


def test_a_stopped_run_goes_on(root: Path, downloads: Path) -> None:
    miniatures.ade20k_instances(downloads, miniatures.ade20k_150(downloads, count=5))
    benchmark = find_benchmark("A-150")
    prepare(benchmark, downloads, splits=["val"], workers=2)
    labels = dataset_info("ade20k_150_val").panoptic
    assert labels is not None
    content, kept = labels.file.read_bytes(), labels.folder / "ADE_val_00000002.png"
    before = kept.stat().st_mtime_ns
    labels.file.unlink()
    (labels.folder / "ADE_val_00000003.png").unlink()
    report = prepare(benchmark, downloads, splits=["val"], workers=1)["val"].panoptic
    assert report is not None and (report.written, report.kept) == (1, 4)
    assert labels.file.read_bytes() == content and kept.stat().st_mtime_ns == before
    # Nothing new: the json is left as it is.
    labels.file.write_text(json.dumps({"annotations": []}))
    prepare(benchmark, downloads, splits=["val"], workers=1)
    assert labels.file.read_text() == json.dumps({"annotations": []})


def test_without_instance_annotations(root: Path, downloads: Path) -> None:
    miniatures.ade20k_150(downloads)
    assert prepare(find_benchmark("A-150"), downloads, splits=["val"], workers=1)["val"].panoptic is None
    with pytest.raises(UserError, match=r"ade20k_panoptic_val\.json' is missing"):
        dataset_records(dataset_info("ade20k_panoptic_val"), panoptic=True)
    verdict = verify(dataset_info("ade20k_panoptic_val"), workers=1)
    assert any("no panoptic labels" in note for note in verdict.notes) and not any(
        "panoptic" in p for p in verdict.problems
    )


@pytest.mark.parametrize(
    ("pixel", "message"),
    [
        ((101, 3, 0), "category 101, outside 1..100"),
        ((0, 3, 0), "category 0, outside 1..100"),
        ((1, 1, 0), "has an instance of two categories"),
    ],
)
def test_wrong_instances(root: Path, downloads: Path, pixel: tuple[int, int, int], message: str) -> None:
    miniatures.ade20k_instances(downloads, miniatures.ade20k_150(downloads, count=2))
    path = downloads / "ADEChallengeData2016" / "annotations_instance" / "validation" / "ADE_val_00000002.png"
    colors = np.array(Image.open(path))
    colors[5, 5] = pixel
    Image.fromarray(colors).save(path)
    with pytest.raises(UserError, match=rf"ADE_val_00000002\.png' .*{message}"):
        prepare(find_benchmark("A-150"), downloads, splits=["val"], workers=1)
    report = prepare(find_benchmark("A-150"), downloads, splits=["val"], workers=1, skip_broken=True)["val"].panoptic
    assert report is not None and len(report.broken) == 1
    with pytest.raises(UserError, match=r"ADE_val_00000002\.jpg' has no panoptic label"):
        dataset_records(dataset_info("ade20k_panoptic_val"), panoptic=True)
    assert len(dataset_records(dataset_info("ade20k_panoptic_val"), panoptic=True, skip_broken=True)) == 1


def test_pngs_of_another_program_need_their_json(root: Path, downloads: Path) -> None:
    semantic = miniatures.ade20k_150(downloads, count=1)
    miniatures.ade20k_instances(downloads, semantic)
    path = root / "ADEChallengeData2016" / "ade20k_panoptic_val" / "ADE_val_00000001.png"
    write_segment_map(path, np.full(semantic.shape, 120 + 256 * 120 + 65536 * 120))
    with pytest.raises(UserError, match="which twostage does not write"):
        prepare(find_benchmark("A-150"), downloads, splits=["val"], workers=1)


def test_cityscapes(root: Path, downloads: Path) -> None:
    values = miniatures.cityscapes(downloads).astype(int)
    prepare(find_benchmark("cityscapes"), downloads, workers=1)
    (record,) = dataset_records(dataset_info("openvocab_cityscapes_fine_panoptic_val"), panoptic=True)
    assert Path(record["pan_seg_file_name"]) == (
        root / "cityscapes" / "gtFine" / "cityscapes_panoptic_val" / "frankfurt_000000_000294_gtFine_panoptic.png"
    )
    ids = list(label_ids("cityscapes"))
    classes, segments = classes_of(record)
    expected = np.array([ids.index(v) if v in ids else -1 for v in values.ravel().tolist()]).reshape(values.shape)
    expected.flat[[26, 30, 5]], expected.flat[24] = ids.index(26), ids.index(24)
    assert np.array_equal(classes, expected)
    # The car in two pieces is one thing, the riders without a number are a crowd, stuff is none.
    assert (segments[26001]["area"], segments[26000]["area"]) == (2, 1)
    assert [name for name, segment in segments.items() if segment["iscrowd"]] == [25, 27, 28, 31, 32, 33]
    stored = json.loads((root / "cityscapes" / "gtFine" / "cityscapes_panoptic_val.json").read_text())
    assert {s["category_id"] for s in stored["annotations"][0]["segments_info"]} <= set(ids), "label ids, as published"
    assert stored["annotations"][0]["image_id"] == "frankfurt_000000_000294"
    assert stored["images"][0]["file_name"] == "frankfurt_000000_000294_leftImg8bit.png"


def test_coco(root: Path, downloads: Path) -> None:
    ids, segments = miniatures.coco_panoptic(downloads)
    report = prepare(find_benchmark("coco_panoptic"), downloads, workers=1)["val"]
    assert (report.written, report.panoptic) == (1, None)
    (record,) = dataset_records(dataset_info("openvocab_coco_2017_val_panoptic_with_sem_seg"), panoptic=True)
    # COCO id -> class: person 1 -> 0, toothbrush 90 -> 79 (the last thing), sky-other-merged 187 -> 119.
    expected = np.full(ids.shape, 255)
    expected[ids == 300], expected[ids == 16_777_215], expected[ids == 70_000] = 0, 79, 119
    assert np.array_equal(np.asarray(Image.open(record["sem_seg_file_name"])), expected)
    names = dataset_info("coco_panoptic_val").class_names
    assert [names[c] for c in (0, 79, 80, 119, 132)] == [
        "person", "toothbrush", "banner", "sky-other-merged", "rug-merged"
    ]  # fmt: skip
    classes, found = classes_of(record)
    assert np.array_equal(classes, np.where(expected == 255, -1, expected))
    assert {name: segment["iscrowd"] for name, segment in found.items()} == {70_000: 0, 300: 1, 16_777_215: 0}
    assert len(segments) == 3
    # The originals are used where they are.
    assert (root / "coco" / "annotations" / "panoptic_val2017.json").resolve().is_relative_to(downloads.resolve())
    assert verify(dataset_info("coco_panoptic_val"), workers=1).problems == []


def test_coco_with_another_json(root: Path, downloads: Path) -> None:
    miniatures.coco_panoptic(downloads)
    path = downloads / "annotations" / "panoptic_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][0]["category_id"] = 12
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"panoptic_val2017\.json' has a segment with 12"):
        prepare(find_benchmark("coco_panoptic"), downloads, workers=1)
    content["annotations"][0]["segments_info"][0].update(category_id=187, id=5)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="holds id 70000, which its json lacks"):
        prepare(find_benchmark("coco_panoptic"), downloads, workers=1)
    path.write_text("[]")
    with pytest.raises(UserError, match="can't be read as panoptic json"):
        prepare(find_benchmark("coco_panoptic"), downloads, workers=1)


def test_verify(root: Path, downloads: Path) -> None:
    miniatures.cityscapes(downloads)
    prepare(find_benchmark("cityscapes"), downloads, workers=1)
    info = dataset_info("cityscapes_val")
    assert info.panoptic is not None
    verdict = verify(info, workers=1)
    # The miniature's instance ids were changed in one pixel whose label map says another class: 24 and 5 do not fit.
    assert "panoptic" in "".join(verdict.figures) and not any("panoptic" in problem for problem in verdict.problems)
    assert "9 things, 11 stuff segments, 6 crowds" in verdict.figures["panoptic labels"]
    content = json.loads(info.panoptic.file.read_text())
    # trainIds in place of label ids.
    for segment in content["annotations"][0]["segments_info"]:
        segment["category_id"] = label_ids("cityscapes").index(segment["category_id"])
    good = info.panoptic.file.read_text()
    info.panoptic.file.write_text(json.dumps(content))
    assert any("made with other ids (trainIds)" in problem for problem in verify(info, workers=1).problems)
    content = json.loads(good)
    for segment in content["annotations"][0]["segments_info"]:
        segment["category_id"] = {7: 8, 8: 7}.get(segment["category_id"], 11)
    info.panoptic.file.write_text(json.dumps(content))
    assert any("segments' classes are not those" in problem for problem in verify(info, workers=1).problems)
    content = json.loads(good)
    content["annotations"][0]["segments_info"].pop()
    info.panoptic.file.write_text(json.dumps(content))
    (problem,) = [problem for problem in verify(info, workers=1).problems if "panoptic" in problem]
    assert problem.startswith("1 panoptic labels are missing or broken") and "its json does not list" in problem
    info.panoptic.file.write_text(json.dumps({"annotations": []}))
    assert any("has no panoptic label in" in problem for problem in verify(info, workers=1).problems)


def test_names_in_either_form_of_unicode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A json from one machine beside PNGs and pictures that another one has renamed."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    (tmp_path / "png").mkdir()
    for written, listed in ((composed, decomposed), (decomposed, composed)):
        for path in (tmp_path / "png").iterdir():
            path.unlink()
        write_segment_map(tmp_path / "png" / f"{written}.png", np.ones((2, 2), np.int64))
        content = {"annotations": [{"file_name": f"{listed}.png", "segments_info": [{"id": 1, "category_id": 7}]}]}
        (tmp_path / "p.json").write_text(json.dumps(content))
        labels = PanopticLabels(folders=("png",), files=("p.json",), category_ids=(7,))
        for picture in (composed, decomposed):
            (record,) = labels.add_to([{"file_name": f"/x/{picture}.jpg"}], image_suffixes=(".jpg",))
            assert read_segment_map(record["pan_seg_file_name"]).sum() == 4
