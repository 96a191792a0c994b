"""What `verify` says about labels that are well, and about each way in which they go wrong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import miniatures
import numpy as np
import pytest
from PIL import Image

from twostage.data.catalogue import find_benchmark
from twostage.data.catalogue.folders import folder_infos
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


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., str]:
    """What is wrong with a folder of one's own of these label maps and classes."""

    def check(*labels: Image.Image | np.ndarray, classes: object = ("sky", "sea")) -> str:
        root = tmp_path / "own"
        for kind in ("images", "labels"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        for index, values in enumerate(labels):
            picture = values if isinstance(values, Image.Image) else Image.fromarray(np.asarray(values, np.uint8))
            picture.save(root / "labels" / f"{index}.png")
            Image.new("RGB", picture.size, (9, 9, 9)).save(root / "images" / f"{index}.png")
        (root / "classes.json").write_text(json.dumps(classes))
        return "\n".join(verify(folder_infos([str(root)])[0], workers=1).problems)

    return check


def test_own_labels_that_are_well(own: Callable[..., str]) -> None:
    assert own([[0, 1, 1]], [[0, 255, 1]]) == ""


def test_black_and_white_masks(own: Callable[..., str]) -> None:
    assert "hold 0 and 255 only" in own([[0, 255, 255]], [[0, 0, 255]])
    assert "'sea' is never learnt" in own([[0, 255, 255]], [[0, 0, 255]])
    # With another ignore label 255 is just no class.
    assert "labels hold the values 255" in own([[0, 255, 255]], classes={"classes": ["sky", "sea"], "ignore_label": 2})


def test_listed_classes_that_never_occur(own: Callable[..., str]) -> None:
    assert "2 of the 4 listed classes never occur ('a', 'd')" in own([[1, 2]], classes=["a", "b", "c", "d"])


def test_label_maps_that_are_mostly_ignored(own: Callable[..., str]) -> None:
    ignored = np.full((10, 10), 255)
    ignored[0, :2] = 0, 1
    text = own(ignored, [[0, 1]])
    assert "1 of 2 label maps are ignored nearly everywhere" in text and "0.png" in text


def palette_picture(indices: list[list[int]], *palette: tuple[int, int, int]) -> Image.Image:
    picture = Image.fromarray(np.array(indices, np.uint8), "P")
    picture.putpalette([value for color in palette for value in color])
    return picture


def test_palettes_that_number_colours_anew(own: Callable[..., str]) -> None:
    red, blue = (200, 30, 30), (30, 30, 200)
    maps = palette_picture([[0, 1]], red, blue), palette_picture([[0, 0, 1]], blue, red)
    assert "the palettes of the label maps differ (0 is [200, 30, 30] in one and another colour in" in own(*maps)
    assert own(maps[0], maps[0]) == ""
    colors = [{"name": "sky", "color": red}, {"name": "sea", "color": blue}]
    assert "1 label maps are colour pictures (the colours in classes.json), the first is" in own(*maps, classes=colors)
    assert own(maps[0], maps[0], classes=colors) == ""


def test_sizes_are_compared_after_turning_the_picture(tmp_path: Path) -> None:
    """A photo that lies on its side and its label, drawn on the upright one."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (9, 4)).save(tmp_path / "images" / "a.jpg", exif=exif)
    Image.fromarray(np.array([[0, 1]] * 4, np.uint8).repeat(2, 1)).resize((4, 9)).save(tmp_path / "labels" / "a.png")
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    info = folder_infos([str(tmp_path)])[0]
    assert verify(info, workers=1).problems == []
    Image.new("RGB", (9, 4)).save(tmp_path / "images" / "a.jpg")
    assert "another size than their picture" in verify(info, workers=1).problems[0]


def test_cut_off_pictures_are_found(own: Callable[..., str], tmp_path: Path) -> None:
    assert own([[0, 1]]) == ""
    picture = tmp_path / "own" / "images" / "0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(picture)
    picture.write_bytes(picture.read_bytes()[:3000])
    text = "\n".join(verify(folder_infos([str(tmp_path / "own")])[0], workers=1).problems)
    assert "1 files can't be read" in text and "0.png" in text


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
    assert "is missing; make it by `twostage prepare cityscapes --source DIR`" in problems("cityscapes_val")
    assert Verdict(problems=["x"]).text() == "  WRONG: x"
