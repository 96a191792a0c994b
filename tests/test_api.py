"""twostage from Python: load, encode once, change the words."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import twostage
from twostage.errors import UserError

RANDOM = ["MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", ""]


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return twostage.load("toybox/san", device="cpu", opts=RANDOM)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)


def test_result(segmenter, pixels):
    result = segmenter(pixels, ["cat", "sofa, couch"])
    assert result.labels.shape == (70, 90) and result.names == ("cat", "sofa, couch")
    assert sum(result.areas().values()) == pytest.approx(1)
    assert int(result.mask("cat").sum()) == int((result.labels == 0).sum())
    assert torch.equal(result.scores().argmax(0), torch.from_numpy(result.labels))
    assert result.overlay().dtype == np.uint8
    with pytest.raises(UserError, match="'cat'"):
        result.mask("cats")


def test_encoded_once_equals_encoded_each_time(segmenter, pixels, monkeypatch):
    words = ["a", "b", "c"]
    wanted = segmenter(pixels, words).labels
    encoded = segmenter.encode(pixels)
    monkeypatch.setattr(segmenter.model, "encode", lambda _: pytest.fail("encoded again"))
    assert np.array_equal(segmenter(encoded, words).labels, wanted)
    swapped = segmenter(encoded, words[::-1]).labels
    assert np.array_equal(2 - swapped, wanted)


def test_every_kind_of_picture(segmenter, pixels, tmp_path):
    wanted = segmenter(pixels, ["a", "b"]).labels
    Image.fromarray(pixels).save(tmp_path / "x.png")
    for picture in (tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(pixels)):
        assert np.array_equal(segmenter(picture, ["a", "b"]).labels, wanted)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    assert np.array_equal(segmenter(tensor, ["a", "b"]).labels, wanted)
    with pytest.raises(UserError, match="uint8 RGB"):
        segmenter(pixels.astype(np.float32), ["a"])


def test_saved_pictures(segmenter, pixels, tmp_path):
    paths = segmenter(pixels, ["a", "b"]).save(tmp_path / "new", "x")
    assert [p.name for p in paths] == ["x_overlay.png", "x_labels.png"]
    assert np.asarray(Image.open(paths[1])).shape == (70, 90)


def test_weights_round_trip(segmenter, pixels, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "mine.safetensors"
    save_file({k: v.contiguous() for k, v in segmenter.model.state_dict().items()}, path)
    torch.manual_seed(1)
    again = twostage.load("toybox/san", weights=path, device="cpu", opts=RANDOM)
    assert np.array_equal(again(pixels, ["a", "b"]).labels, segmenter(pixels, ["a", "b"]).labels)


def test_unknown_config_name():
    with pytest.raises(UserError, match=r"'san_vitb'"):
        twostage.load("san_vit_b")


@pytest.mark.parametrize("count", [2, 255, 256, 300])
def test_none_of_the_words_never_shares_a_value_with_a_class(tmp_path, monkeypatch, count):
    monkeypatch.setattr(twostage.Segmentation, "overlay", lambda self: self.image)
    labels = (np.arange(30 * 30) % (count + 1)).reshape(30, 30) - 1
    names = tuple(f"c{i}" for i in range(count))
    image = np.zeros((30, 30, 3), np.uint8)
    twostage.Segmentation(labels=labels, names=names, image=image, prediction=None).save(tmp_path, "x")
    with Image.open(tmp_path / "x_labels.png") as picture:
        saved, about = np.asarray(picture).astype(int), picture.text
    none = 255 if count <= 255 else 65535
    assert np.array_equal(saved, np.where(labels < 0, none, labels))
    assert about["none"] == str(none) and json.loads(about["names"]) == list(names)
