"""A segmentation of known shapes in every form that it is asked for."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from twostage.errors import UserError
from twostage.predictions.prediction import TopScores
from twostage.results.coco import joined
from twostage.results.formats import parse_formats
from twostage.results.panoptic import PanopticSegmentation
from twostage.results.segmentation import Segmentation
from twostage.visualization.palette import palette

NAMES = ("grass", "cat", "<b>sofa</b>, couch", "dog")


class Fixed:
    """A prediction with given scores."""

    def __init__(self, scores: torch.Tensor) -> None:
        self._scores = scores

    def scores(self, sizes):
        assert list(sizes) == [tuple(self._scores.shape[1:])]
        return [self._scores]

    def label_maps(self, sizes):
        return [self._scores.argmax(0)]

    def top(self, sizes, count):
        return [TopScores(*self._scores.topk(count, dim=0))]


@pytest.fixture
def result() -> Segmentation:
    """30 x 40: a cat of 10 x 12, a couch of two parts, a row of none, grass around; no dog."""
    labels = np.zeros((30, 40), np.int64)
    labels[5:15, 8:20] = 1
    labels[20:24, 2:6] = labels[20:22, 30:40] = 2
    labels[29] = -1
    scores = torch.rand((4, 30, 40), generator=torch.Generator().manual_seed(0))
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    return Segmentation(labels=labels, names=NAMES, image=image, prediction=Fixed(scores))


COUCH = 4 * 4 + 2 * 10
AREAS = {"grass": 29 * 40 - 120 - COUCH, "cat": 120, NAMES[2]: COUCH}


def test_masks_and_boxes(result: Segmentation) -> None:
    assert {name: mask.sum() for name, mask in result.masks().items()} == AREAS
    assert list(result.masks()) == list(AREAS) == list(result.areas())
    assert result.boxes() == {"grass": (0, 0, 40, 29), "cat": (8, 5, 12, 10), NAMES[2]: (2, 20, 38, 4)}


def test_polygons(result: Segmentation) -> None:
    rings = result.polygons()
    assert [ring.tolist() for ring in rings["cat"]] == [[[8, 5], [20, 5], [20, 15], [8, 15]]]
    assert len(rings[NAMES[2]]) == 2
    # Grass: its own outline, which runs around the couch's right part at the border, and two holes.
    assert len(rings["grass"]) == 3 and "dog" not in rings


def test_a_name_that_stands_twice_is_one_name(result: Segmentation) -> None:
    twice = Segmentation(
        labels=result.labels, names=("grass", "cat", "cat", "dog"), image=result.image, prediction=result.prediction
    )
    assert twice.areas()["cat"] == (120 + COUCH) / 1200 and twice.masks()["cat"].sum() == 120 + COUCH
    assert [found["category_id"] for found in twice.to_coco()["annotations"]] == [1, 2, 3]


def test_top_scores(result: Segmentation) -> None:
    scores = result.scores()
    best, labels = result.scores(top=2)
    assert best.shape == labels.shape == (2, 30, 40)
    assert torch.equal(labels[0], scores.argmax(0)) and torch.equal(best[0], scores.amax(0))
    assert torch.equal(best[1], scores.sort(0, descending=True).values[1])
    assert torch.equal(scores.gather(0, labels), best)
    for wrong in (0, 5, -1):
        with pytest.raises(UserError, match="between 1 and 4"):
            result.scores(top=wrong)


def test_coco_is_read_by_pycocotools(result: Segmentation, tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(result.to_coco(image_id=7, file_name="a.jpg")))
    coco = COCO(str(path))
    assert coco.imgs[7] == {"id": 7, "file_name": "a.jpg", "height": 30, "width": 40}
    assert [coco.cats[index]["name"] for index in sorted(coco.cats)] == list(NAMES)
    found = {coco.cats[a["category_id"]]["name"]: a for a in coco.loadAnns(coco.getAnnIds())}
    for name, mask in result.masks().items():
        assert np.array_equal(coco.annToMask(found[name]).astype(bool), mask)
        assert found[name]["area"] == AREAS[name] and tuple(found[name]["bbox"]) == result.boxes()[name]
        assert found[name]["image_id"] == 7


def test_pictures_joined_in_one_json_keep_their_annotations_apart(result: Segmentation) -> None:
    whole = joined([result.to_coco(file_name="a.jpg"), result.to_coco(file_name="b.jpg")])
    assert [image["id"] for image in whole["images"]] == [1, 2] and len(whole["categories"]) == 4
    assert [a["id"] for a in whole["annotations"]] == list(range(1, 7))
    assert [a["image_id"] for a in whole["annotations"]] == [1] * 3 + [2] * 3


def test_the_dict_is_json_and_holds_everything(result: Segmentation) -> None:
    content = json.loads(json.dumps(result.to_dict()))
    assert (content["height"], content["width"], content["names"]) == (30, 40, list(NAMES))
    assert content["none"] == pytest.approx(1 / 30)
    labels = np.full((30, 40), -1)
    for entry in content["found"]:
        labels[coco_mask.decode(entry["segmentation"]).astype(bool)] = NAMES.index(entry["name"])
    assert np.array_equal(labels, result.labels)
    assert [entry["share"] for entry in content["found"]] == pytest.approx([area / 1200 for area in AREAS.values()])


def test_files_of_every_format(result: Segmentation, tmp_path: Path) -> None:
    paths = result.save(tmp_path / "new", "x", format=["npz", "png", "coco"])
    assert [path.name for path in paths] == ["x_overlay.png", "x_labels.png", "x_coco.json", "x.npz"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths)
    with np.load(paths[3], allow_pickle=False) as arrays:
        assert np.array_equal(arrays["labels"], result.labels) and tuple(arrays["names"]) == NAMES
    assert len(json.loads(paths[2].read_text())["annotations"]) == 3


def test_a_file_name_that_is_no_utf_8_does_not_lose_the_json(result: Segmentation, tmp_path: Path) -> None:
    stem = "caf\udce9"  # what Python makes of the byte E9 in a file's name
    (path,) = result.save(tmp_path, stem, format="coco")
    assert json.loads(path.read_bytes())["images"][0]["file_name"] == stem


def test_the_label_map_shows_its_colours_and_says_what_they_are(result: Segmentation, tmp_path: Path) -> None:
    _, path = result.save(tmp_path, "x")
    with Image.open(path) as picture:
        assert picture.mode == "P" and np.array_equal(
            np.asarray(picture), np.where(result.labels < 0, 255, result.labels)
        )
        shown, about = np.asarray(picture.convert("RGB")), picture.text
    colors = palette(4)
    assert np.array_equal(shown, np.where(result.labels[..., None] < 0, 0, colors[result.labels]))
    assert json.loads(about["names"]) == list(NAMES) and about["none"] == "255"
    assert json.loads(about["palette"]) == ["#" + "".join(f"{v:02x}" for v in color) for color in colors]


def test_formats_that_there_are_not() -> None:
    with pytest.raises(UserError, match=r"'pgn' .did you mean 'png'"):
        parse_formats("coco,pgn")
    with pytest.raises(UserError, match="no format is given"):
        parse_formats(" , ")


def test_a_notebook_shows_the_picture_and_a_table(result: Segmentation) -> None:
    page = result._repr_html_()
    inside = re.search(r"data:image/png;base64,([^\"]+)", page)
    with Image.open(io.BytesIO(base64.b64decode(inside[1]))) as picture:
        assert np.array_equal(np.asarray(picture), result.overlay())
    with Image.open(io.BytesIO(result._repr_png_())) as picture:
        assert np.array_equal(np.asarray(picture), result.overlay())
    table = page.partition("<table>")[2]
    assert "&lt;b&gt;sofa" in table and "<b>" not in page
    assert "10.0 %" in table and "none of the words" in table and "3.3 %" in table and "dog" not in table


def test_panoptic_segments_as_coco(result: Segmentation) -> None:
    ids = np.zeros((30, 40), np.int32)
    ids[:4], ids[10:13, 5:9], ids[10:13, 20:22] = 1, 2, 3
    segments = tuple(
        {"id": number, "category_id": category, "isthing": category == 1}
        for number, category in ((1, 0), (2, 1), (3, 1))
    )
    panoptic = PanopticSegmentation(ids=ids, segments=segments, names=NAMES, image=result.image)
    content = panoptic.to_coco()
    assert [(a["category_id"], a["area"], a["bbox"]) for a in content["annotations"]] == [
        (1, 160, [0, 0, 40, 4]),
        (2, 12, [5, 10, 4, 3]),
        (2, 6, [20, 10, 2, 3]),
    ]
    with Image.open(io.BytesIO(panoptic._repr_png_())) as picture:
        assert picture.format == "PNG"


def test_it_is_printed_in_a_line(result: Segmentation) -> None:
    """Not as pages of numbers, and of many names the largest."""
    areas, none = result.areas(), float((result.labels < 0).mean())
    told = ", ".join(f"{name!r} {100 * share:.1f} %" for name, share in areas.items())
    assert len(areas) == 3 and 0 < none < 0.1
    line = f"<Segmentation of 40 x 30 pixels into 4 names: {told}, none of the words {100 * none:.1f} %"
    assert repr(result) == f"{line}>"
    assert repr(dataclasses.replace(result, others=("sky", "sea"))) == f"{line}; 2 other words competed>"
    many = dataclasses.replace(result, names=tuple("abcdefgh"), labels=np.repeat(np.arange(8), 5).reshape(8, 5))
    assert repr(many).endswith("'e' 12.5 %, 3 more>") and "none" not in repr(many)
    segments = PanopticSegmentation(ids=result.labels, segments=({"id": 1},), names=NAMES, image=result.image)
    assert repr(segments) == "<PanopticSegmentation of 40 x 30 pixels: 1 segments of 4 names>"
