"""COCO-Stuff-171 on miniature originals."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twostage.data.coco_stuff import label_table, prepare_coco_stuff
from twostage.errors import UserError


def test_label_table():
    table = label_table()
    assert sorted(set(table.tolist())) == [*range(171), 255]
    # COCO ids start at 1, pixels at 0; ids 12 and 91 are unused.
    assert (table[0], table[11], table[90], table[181], table[255]) == (0, 255, 255, 170, 255)


@pytest.fixture
def source(tmp_path):
    for split in ("train2017", "val2017"):
        (tmp_path / "maps" / split).mkdir(parents=True)
        pixels = np.array([[0, 11], [181, 255]], np.uint8)
        Image.fromarray(pixels).save(tmp_path / "maps" / split / "000000000001.png")
    return tmp_path / "maps"


def test_prepare_writes_labels_and_resumes(source, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    assert prepare_coco_stuff(source, workers=1) == {"train2017": 1, "val2017": 1}
    file = tmp_path / "datasets" / "coco" / "stuffthingmaps_detectron2" / "val2017" / "000000000001.png"
    assert np.asarray(Image.open(file)).tolist() == [[0, 255], [170, 255]]
    before = file.stat().st_mtime_ns
    prepare_coco_stuff(source, workers=1)
    assert file.stat().st_mtime_ns == before
    assert not list(file.parent.glob(".*"))


def test_wrong_source_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    with pytest.raises(UserError, match=r"train2017.*stuffthingmaps_trainval2017\.zip"):
        prepare_coco_stuff(tmp_path, workers=1)
