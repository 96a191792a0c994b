"""Large pictures: labels don't depend on memory, hardly on where tiles lie; GeoTIFF keeps its place on Earth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import twostage
from twostage.api import Segmenter
from twostage.commands.main import run
from twostage.data.toybox.dataset import plan_scenes, render
from twostage.errors import UserError
from twostage.large.tiling import ArraySource, Tiling, label_blocks, tile_weights
from twostage.vocabulary import Vocabulary

WORDS = ("grass", "sky", "water", "sand", "mud")


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return twostage.load("toybox/maskclip", device="cpu", opts=["MODEL.CLIP.TEXT_CACHE", ""])


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Six scenes in one picture of 240 x 420."""
    scenes = [scene.image[:120, :120] for _, scene in render(plan_scenes(0, "open", 8), 0, "open")]
    parts = [np.pad(s, ((0, 120 - s.shape[0]), (0, 140 - s.shape[1]), (0, 0)), mode="reflect") for s in scenes[:6]]
    return np.concatenate([np.concatenate(parts[:3], axis=1), np.concatenate(parts[3:], axis=1)])


def labels_of(segmenter: Segmenter, picture: np.ndarray, tiling: Tiling) -> np.ndarray:
    labels = np.full(picture.shape[:2], -7)
    for window, part in label_blocks(segmenter, ArraySource(picture), Vocabulary(WORDS), tiling):
        place = (slice(window.top, window.top + window.height), slice(window.left, window.left + window.width))
        assert (labels[place] == -7).all()
        labels[place] = part
    return labels


def test_labels_do_not_depend_on_memory(segmenter: Segmenter, picture: np.ndarray) -> None:
    whole = labels_of(segmenter, picture, Tiling(128, 40, 2**30))
    assert (whole >= 0).all() and len(np.unique(whole)) > 2
    rows = labels_of(segmenter, picture, Tiling(128, 40, 420 * 130 * 4 * 6))
    squares = labels_of(segmenter, picture, Tiling(128, 40, 150 * 150 * 4 * 6))
    assert (rows == whole).mean() > 0.9999 and (squares == whole).mean() > 0.9999


def test_one_tile_is_the_segmenter_itself(segmenter: Segmenter, picture: np.ndarray) -> None:
    part = picture[:120, :140]
    expected = segmenter(part, list(WORDS), others=None).labels
    np.testing.assert_array_equal(labels_of(segmenter, part, Tiling(200, 50, 2**30)), expected)


def test_labels_hardly_depend_on_where_tiles_lie(segmenter: Segmenter, picture: np.ndarray) -> None:
    """Tiles of the picture cut by 31 pixels lie elsewhere; without overlap more pixels change."""

    def agreement(overlap: int) -> float:
        one = labels_of(segmenter, picture, Tiling(128, overlap, 2**30))[31:, 31:]
        other = labels_of(segmenter, np.ascontiguousarray(picture[31:, 31:]), Tiling(128, overlap, 2**30))
        return float((one == other).mean())

    apart, joined = agreement(0), agreement(64)
    assert joined > apart and joined > 0.85


def test_weights_add_up() -> None:
    weights = tile_weights((64, 64), 16)
    row = weights[32]
    assert float(row[20]) == 1.0
    np.testing.assert_allclose((row[-16:] + row[:16]).numpy(), 1.0, atol=0.04)


def test_geotiff_keeps_its_place(tmp_path: Path, picture: np.ndarray) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra 'geo'")
    from rasterio.transform import from_origin

    place = {"crs": "EPSG:32633", "transform": from_origin(400000, 5800000, 0.5, 0.5)}
    height, width = picture.shape[:2]
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile, **place) as file:
        file.write(picture.transpose(2, 0, 1))
    Image.fromarray(picture).save(tmp_path / "scene.png")
    words = ["--words", "; ".join(WORDS), "--system", "toybox/maskclip", "--others", "none"]
    keys = ["--set", "TEST.LARGE.TILE", "128", "TEST.LARGE.OVERLAP", "40"]
    for name in ("tif", "png"):
        run(["large", str(tmp_path / f"scene.{name}"), *words, "--output", str(tmp_path / f"out.{name}"), *keys])
    with rasterio.open(tmp_path / "out.tif") as file, Image.open(tmp_path / "out.png") as png:
        assert file.crs == place["crs"] and file.transform == place["transform"] and file.nodata == 255
        np.testing.assert_array_equal(file.read(1), np.asarray(png))
        assert '"grass"' in file.tags()["names"]


def test_bad_overlap_and_output(tmp_path: Path) -> None:
    words = ["large", str(tmp_path), "--words", "sky; sand", "--system", "toybox/maskclip", "--output"]
    with pytest.raises(UserError, match="ends in"):
        run([*words, str(tmp_path / "a.jpg")])
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="less than TEST"):
        run(["large", str(tmp_path / "a.png"), *words[2:], "b.png", "--set", "TEST.LARGE.OVERLAP", "1024"])


def test_no_picture_is_written_over(tmp_path: Path, picture: np.ndarray) -> None:
    """Neither the one that is labelled nor another that twostage has not written."""
    for name in ("scene.png", "other.png"):
        Image.fromarray(picture).save(tmp_path / name)
    words = ["large", str(tmp_path / "scene.png"), "--words", "sky; sand", "--system", "toybox/maskclip", "--output"]
    with pytest.raises(UserError, match="is the picture itself"):
        run([*words, str(tmp_path / "scene.png")])
    with pytest.raises(UserError, match="has not written it"):
        run([*words, str(tmp_path / "other.png")])
