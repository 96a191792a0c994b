"""What `verify` says about labels that are well, and about each way in which they go wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import miniatures
import numpy as np
import pytest
from PIL import Image

from twostage.data.catalogue import find_benchmark
from twostage.data.catalogue.label_ids import label_ids
from twostage.data.preparation.prepare import prepare
from twostage.data.preparation.scanning import grey_of, voc_colors
from twostage.data.preparation.verify import Verdict, verify
from twostage.data.views import dataset_info


def put(name: str, labels: np.ndarray, stem: str = "a", image_size: tuple[int, int] | None = None) -> Path:
    """One picture and label map of the registered dataset `name`; returns the label file."""
    info = dataset_info(name)
    height, width = image_size or labels.shape[:2]
    miniatures.photo(info.image_root / f"{stem}.jpg", height, width)
    path = info.label_root / f"{stem}.png"
    miniatures.save(path, labels)
    return path


def problems(name: str) -> str:
    return "\n".join(verify(dataset_info(name), workers=1).problems)


def grid(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """`[2, n]` with each value twice."""
    return np.array([values, values], dtype)


@pytest.mark.parametrize(
    "paper", ["COCO-171", "COCO-Object", "A-150", "PC-59", "PC-60", "PC-459", "PAS-20b", "Cityscapes"]
)
def test_prepared_miniatures_are_well(root: Path, downloads: Path, paper: str) -> None:
    miniatures.coco(downloads)
    miniatures.ade20k_150(downloads)
    miniatures.context_mats(downloads, miniatures.context_ids())
    miniatures.voc(downloads)
    miniatures.cityscapes(downloads)
    benchmark = find_benchmark(paper)
    prepare(benchmark, downloads, splits=["val"], workers=1)
    verdict = verify(dataset_info(f"{benchmark.name}_val"), workers=1)
    assert verdict.problems == []
    assert any("the published set has" in note for note in verdict.notes)
    assert verdict.text().endswith("ok")


def test_figures(root: Path) -> None:
    put("ade20k_150_val", np.array([[0, 0, 1, 255]], np.uint8))
    put("ade20k_150_val", np.array([[0, 255, 255, 255]], np.uint8), stem="b")
    figures = verify(dataset_info("ade20k_150_val"), workers=1).figures
    assert figures["labelled pictures"] == 2 and figures["classes that occur"] == 2
    assert figures["ignored pixels"] == "50.0 %" and figures["most frequent"] == "wall 37.5 %, building 12.5 %"


def test_many_files_in_several_threads(root: Path) -> None:
    for index in range(20):
        put("ade20k_150_val", grid(0, 1, index), stem=f"{index:02d}")
    one = verify(dataset_info("ade20k_150_val"), workers=1)
    two = verify(dataset_info("ade20k_150_val"), workers=2)
    assert dataclasses.asdict(one) == dataclasses.asdict(two) and one.figures["labelled pictures"] == 20


def test_labels_shifted_by_one(root: Path) -> None:
    put("ade20k_150_val", grid(*range(151)))
    assert "shifted by one: they hold 150" in problems("ade20k_150_val")


def test_labels_shifted_once_too_often(root: Path) -> None:
    put("ade20k_150_val", (grid(*range(151)) - np.uint8(2)).astype(np.uint8))
    assert "one too often: 254 was the ignore label" in problems("ade20k_150_val")


def test_labels_shifted_down_inside_the_list(root: Path) -> None:
    put("ade20k_150_val", grid(*range(149), 255))
    assert "'flag', never occurs and all others do" in problems("ade20k_150_val")


def test_original_coco_ids(root: Path) -> None:
    put("coco_stuff_val", grid(0, 5, 175, 181, 255))
    assert "ids of the original stuffthingmaps" in problems("coco_stuff_val")


def test_eight_bits_where_sixteen_are_needed(root: Path) -> None:
    put("ade20k_847_val", grid(0, 1, 255))
    assert "1 label maps have 8 bits per pixel" in problems("ade20k_847_val")
    put("ade20k_847_val", grid(0, 1, 255, dtype=np.uint16))
    assert "went through 8 bits" in problems("ade20k_847_val")
    put("ade20k_847_val", grid(0, 1, 846, 65535, dtype=np.uint16))
    assert problems("ade20k_847_val") == ""


def test_tiff_of_other_repositories_is_well(root: Path) -> None:
    path = put("ade20k_847_val", grid(0, 1, 846, 65535, dtype=np.uint16))
    Image.fromarray(grid(0, 5, 846, 65535, dtype=np.uint16)).save(path.with_suffix(".tif"))
    path.unlink()
    verdict = verify(dataset_info("ade20k_full_sem_seg_val"), workers=1)
    assert verdict.problems == [] and verdict.figures["classes that occur"] == 3


def test_pictures_not_reduced(root: Path) -> None:
    put("ade20k_847_val", np.full((600, 600), 300, np.uint16))
    assert "short edge of up to 600 pixels" in problems("ade20k_847_val")


def test_colour_pictures_of_labels(root: Path) -> None:
    voc = np.array(voc_colors(), np.uint8)
    assert (
        voc[1].tolist() == [128, 0, 0] and voc[15].tolist() == [192, 128, 128] and voc[255].tolist() == [224, 224, 192]
    )
    put("pascal_voc_20_val", voc[grid(0, 1, 15, 255)])
    assert "1 label maps are colour pictures (the colours of PASCAL VOC's palette)" in problems("pascal_voc_20_val")
    put("pascal_voc_20_val", np.full((3, 3, 3), 9, np.uint8))
    assert "no palette known here" in problems("pascal_voc_20_val")


def test_colours_turned_grey(root: Path) -> None:
    greys = [grey_of(voc_colors()[index]) for index in (0, 1, 15, 20, 255)]
    put("pascal_voc_20_val", grid(*greys))
    assert "grey levels of PASCAL VOC's colours" in problems("pascal_voc_20_val")


def test_other_background_convention(root: Path) -> None:
    put("pascal_voc_20b_val", grid(0, 0, 0, 0, 0, 1, 15, 255))
    assert "background seems to be 0 here, but PAS-20b wants it at 20" in problems("pascal_voc_20b_val")
    put("pascal_voc_21_val", grid(20, 20, 20, 20, 20, 1, 15, 255))
    assert "background seems to be 20 here, but PAS-21 wants it at 0" in problems("pascal_voc_21_val")


def test_ovseg_order_of_pascal_context(root: Path) -> None:
    names = dataset_info("pascal_context_59_val").class_names
    ours, theirs = label_ids("pascal_context_59"), label_ids("pascal_context_59_ovseg")
    photo = [names.index(name) for name in ("sky", "sky", "grass", "tree", "person", "bag")]
    put("pascal_context_59_val", grid(*photo))
    assert problems("pascal_context_59_val") == ""
    put("pascal_context_59_val", grid(*[theirs.index(ours[label]) for label in photo]))
    assert "OVSeg's and SCAN's order" in problems("pascal_context_59_val")


def test_other_class_list(root: Path) -> None:
    put("ade20k_150_val", grid(0, 200, 230))
    assert "labels hold the values 200, 230, but there are only the 150 classes" in problems("ade20k_150_val")


def test_pairing_and_sizes(root: Path) -> None:
    put("ade20k_150_val", grid(0, 1))
    lonely = put("ade20k_150_val", grid(0, 1), stem="lonely")
    (dataset_info("ade20k_150_val").image_root / "lonely.jpg").unlink()
    put("ade20k_150_val", grid(0, 1), stem="other", image_size=(9, 7))
    miniatures.photo(dataset_info("ade20k_150_val").image_root / "extra.jpg", 2, 2)
    verdict = verify(dataset_info("ade20k_150_val"), workers=1)
    said = "\n".join(verdict.problems)
    assert f"1 label maps have no picture, the first: label '{lonely}'" in said
    assert "other.png' is 2 x 2, its picture 7 x 9" in said
    assert any("1 pictures in" in note and "have no label map" in note for note in verdict.notes)


def test_unreadable_files_are_counted_or_skipped(root: Path) -> None:
    put("ade20k_150_val", grid(0, 1))
    put("ade20k_150_val", grid(0, 1), stem="b").write_bytes(b"no png")
    assert "1 files can't be read, the first: label " in problems("ade20k_150_val")
    verdict = verify(dataset_info("ade20k_150_val"), workers=1, skip_broken=True)
    assert verdict.problems == [] and any("b.png" in note for note in verdict.notes)


def test_class_list_of_the_labels(root: Path, downloads: Path) -> None:
    miniatures.voc(downloads)
    prepare(find_benchmark("PAS-20"), downloads, splits=["val"], workers=1)
    stamp = dataset_info("pascal_voc_20_val").label_root / "prepared.json"
    assert problems("pascal_voc_20_val") == ""
    stamp.write_text(stamp.read_text().replace("pascal_voc_20", "pascal_voc_21"))
    assert "made for the class list" in problems("pascal_voc_20_val")
    stamp.write_text("{")
    assert "is damaged" in problems("pascal_voc_20_val")


def test_nothing_there(root: Path) -> None:
    assert "is missing; run `prepare_datasets.py prepare cityscapes`" in problems("cityscapes_val")
    assert Verdict(problems=["x"]).text() == "  WRONG: x"
