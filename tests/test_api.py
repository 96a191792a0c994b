"""twostage from Python: load, encode once, change the words."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import twostage
from twostage.api import as_rgb
from twostage.errors import UserError
from twostage.pictures import read_ahead

RANDOM = ["MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", ""]


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return twostage.load("toybox/san", device="cpu", opts=RANDOM)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)


def test_result(segmenter, pixels):
    result = segmenter(pixels, ["cat", "sofa, couch"], others=None)
    assert result.labels.shape == (70, 90) and result.names == ("cat", "sofa, couch")
    assert sum(result.areas().values()) == pytest.approx(1)
    assert int(result.mask("cat").sum()) == int((result.labels == 0).sum())
    assert torch.equal(result.scores().argmax(0), torch.from_numpy(result.labels))
    assert result.overlay().dtype == np.uint8
    with pytest.raises(UserError, match="'cat'"):
        result.mask("cats")


def test_encoded_once_equals_encoded_each_time(segmenter, pixels, monkeypatch):
    words = ["a", "b", "c"]
    wanted = segmenter(pixels, words, others=None).labels
    encoded = segmenter.encode(pixels)
    monkeypatch.setattr(segmenter.model, "encode", lambda _: pytest.fail("encoded again"))
    assert np.array_equal(segmenter(encoded, words, others=None).labels, wanted)
    swapped = segmenter(encoded, words[::-1], others=None).labels
    assert np.array_equal(2 - swapped, wanted)


def test_every_kind_of_picture(segmenter, pixels, tmp_path):
    wanted = segmenter(pixels, ["a", "b"], others=None).labels
    Image.fromarray(pixels).save(tmp_path / "x.png")
    for picture in (tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(pixels)):
        assert np.array_equal(segmenter(picture, ["a", "b"], others=None).labels, wanted)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    assert np.array_equal(segmenter(tensor, ["a", "b"], others=None).labels, wanted)
    assert np.array_equal(segmenter(pixels.astype(np.float32), ["a", "b"], others=None).labels, wanted)


def test_everything_that_is_a_picture_is_read_alike(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    alpha = np.dstack([pixels, pixels[..., 0]])
    unit = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    with (tmp_path / "x.png").open("rb") as file:
        for picture in (
            content, bytearray(content), io.BytesIO(content), file, alpha, pixels / 255, pixels.astype(np.float64),
            pixels.astype(np.int64), pixels.astype(np.uint16) * 257, unit, unit.double(),
        ):  # fmt: skip
            assert np.array_equal(as_rgb(picture), pixels)
    grey = pixels[..., 1]
    for picture in (grey, grey[..., None], Image.fromarray(grey), torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert np.array_equal(as_rgb(picture), np.dstack([grey] * 3))
    assert np.array_equal(as_rgb(grey > 99), np.dstack([255 * (grey > 99)] * 3))


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (None, "this is None"),
        ([np.zeros((4, 4, 3), np.uint8)], "list of 1 entries; give them one at a time"),
        ([], "list of 0 entries"),
        ("", "path is empty"),
        (b"", "the image that was handed over can't be read"),
        (io.StringIO("text"), "can't be read"),
        (7, "a int"),
        (np.zeros((3, 5, 6), np.uint8), r"\[3, 5, 6\], channels first: give array.transpose\(1, 2, 0\)"),
        (torch.zeros(5, 6, 3, dtype=torch.uint8), r"\[5, 6, 3\]: give tensor.permute\(2, 0, 1\)"),
        (np.zeros((2, 5, 6, 3), np.uint8), "one at a time"),
        (np.zeros((0, 6, 3), np.uint8), "no pixels"),
        (Image.new("RGB", (0, 6)), "no pixels"),
        (np.zeros(5, np.uint8), r"of shape \[H, W, 3\]"),
        (np.zeros((5, 6, 2), np.uint8), r"of shape \[H, W, 3\]"),
        (np.full((5, 6, 3), 255.5), "must lie on 0 to 1 or 0 to 255"),
        (np.full((5, 6, 3), -0.1), "must lie on 0 to 1"),
        (np.full((5, 6, 3), np.nan), "must lie on 0 to 1"),
        (np.full((5, 6, 3), -1), "must lie on 0 to 255 or 0 to 65535"),
        (np.full((5, 6, 3), "a"), "pixels are numbers"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(picture, said):
    with pytest.raises(UserError, match=said):
        as_rgb(picture)


def test_saved_pictures(segmenter, pixels, tmp_path):
    paths = segmenter(pixels, ["a", "b"], others=None).save(tmp_path / "new", "x")
    assert [p.name for p in paths] == ["x_overlay.png", "x_labels.png"]
    assert np.asarray(Image.open(paths[1])).shape == (70, 90)


def test_weights_round_trip(segmenter, pixels, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "mine.safetensors"
    save_file({k: v.contiguous() for k, v in segmenter.model.state_dict().items()}, path)
    torch.manual_seed(1)
    again = twostage.load("toybox/san", weights=path, device="cpu", opts=RANDOM)
    assert np.array_equal(
        again(pixels, ["a", "b"], others=None).labels, segmenter(pixels, ["a", "b"], others=None).labels
    )


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


def test_many_pictures_in_order_and_broken_ones_with_their_error(segmenter, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "x.png")
    (tmp_path / "y.png").write_bytes(b"no picture")
    pictures = [tmp_path / "x.png", tmp_path / "y.png", pixels[:50], tmp_path / "none.png", pixels]
    wanted = segmenter(pixels, ["a", "b"], others=None).labels
    for ahead in (0, 2):
        found = list(segmenter.map(iter(pictures), ["a", "b"], others=None, progress=False, ahead=ahead))
        assert all(one.picture is picture for one, picture in zip(found, pictures, strict=True))
        assert [one.error is None for one in found] == [one.result is not None for one in found] == [1, 0, 1, 0, 1]
        assert np.array_equal(found[0].result.labels, wanted) and np.array_equal(found[4].result.labels, wanted)
        assert found[2].result.labels.shape == (50, 90)
        assert "y.png" in str(found[1].error) and "does not exist" in str(found[3].error)


def test_words_are_checked_before_the_first_picture(segmenter):
    with pytest.raises(UserError, match="twice"):
        segmenter.map(["none.png"], ["a", "A"])
    with pytest.raises(UserError, match="several pictures"):
        segmenter.map("none.png", ["a"])
    with pytest.raises(UserError, match="0 or more"):
        segmenter.map(["none.png"], ["a"], ahead=-1)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_pictures_are_read_ahead_than_asked_for(pixels, ahead):
    taken = []

    def pictures():
        for index in range(20):
            taken.append(index)
            yield pixels

    read = read_ahead(pictures(), count=ahead)
    for index in range(5):
        next(read)
        assert len(taken) == index + 1 + ahead
    # The rest is neither read nor waited for.
    read.close()
    assert len(taken) == 5 + ahead


def test_progress_goes_to_stderr(segmenter, pixels, capsys):
    list(segmenter.map([pixels, pixels], ["a", "b"], others=None))
    out, err = capsys.readouterr()
    assert "2/2" in err and not out
