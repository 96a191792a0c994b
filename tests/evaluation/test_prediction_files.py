"""Saved label maps never overwrite each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from twostage.data.catalogue import DatasetInfo
from twostage.errors import UserError
from twostage.evaluation.prediction_files import PredictionFiles


@pytest.fixture
def places(monkeypatch):
    def make(*files: str, root: str = "/data/images") -> list[str]:
        records = [{"file_name": file} for file in files]
        monkeypatch.setattr(DatasetInfo, "records", lambda self, **_: records)
        info = DatasetInfo(
            name="x",
            benchmark="x",
            split="",
            title="x",
            class_names=("a",),
            prompts=("a",),
            images=(root,),
            labels=(root,),
        )
        return [PredictionFiles(info, Path("/out"))[file].as_posix() for file in files]

    return make


def test_below_the_folder_of_images(places) -> None:
    assert places("/data/images/a/0.jpg", "/data/images/b/0.jpg") == ["/out/a/0.png", "/out/b/0.png"]


def test_two_suffixes_of_one_name(places) -> None:
    assert places("/data/images/0.jpg", "/data/images/0.png", "/data/images/1.jpg") == [
        "/out/0.jpg.png",
        "/out/0.png.png",
        "/out/1.png",
    ]


def test_a_suffix_that_is_kept_is_nobodys_name(places) -> None:
    files = [f"/data/images/{name}" for name in ("0.jpg", "0.png", "0.jpg.bmp", "0.png.jpg")]
    assert len(set(places(*files))) == len(files)


def test_images_of_elsewhere(places) -> None:
    assert places("/first/s/0.jpg", "/second/s/0.jpg") == ["/out/first/s/0.png", "/out/second/s/0.png"]
    assert places("/data/images/0.jpg", "/data/more/0.jpg") == ["/out/images/0.png", "/out/more/0.png"]


def test_an_image_of_another_dataset(places) -> None:
    places("/data/images/0.jpg")
    info = DatasetInfo(
        name="x", benchmark="x", split="", title="x", class_names=("a",), prompts=("a",), images=("/i",), labels=("/l",)
    )
    with pytest.raises(UserError, match=r"'/other\.jpg' is no image of 'x'"):
        PredictionFiles(info, Path("/out"))["/other.jpg"]
