"""Large pictures: labels don't depend on memory, hardly on where tiles lie; GeoTIFF keeps its place on Earth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import twostage
from twostage.api import Segmenter
from twostage.commands.main import run
from twostage.data.toybox.dataset import plan_scenes, render
from twostage.errors import UserError
from twostage.large import geotiff
from twostage.large.geotiff import GeoTiff, _holds
from twostage.large.tiling import ArraySource, Tiling, Window, label_blocks, tile_weights
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


@pytest.fixture
def write_tif(tmp_path: Path) -> Any:
    """Writes bands `[N, H, W]` as a GeoTIFF that lies somewhere; returns its path."""
    rasterio = pytest.importorskip("rasterio", reason="needs the extra 'geo'")
    from rasterio.transform import from_origin

    def write(name: str, bands: np.ndarray, *, colors: Any = None, **more: Any) -> Path:
        place = {"crs": "EPSG:32633", "transform": from_origin(400000, 5800000, 0.5, 0.5)} | more
        if "gcps" in more:
            del place["transform"]
        count, height, width = bands.shape
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", height=height, width=width, count=count, dtype=bands.dtype, **place
        ) as file:
            file.write(bands)
            if colors is not None:
                file.write_colormap(1, colors)
        return tmp_path / name

    return write


def test_bands_are_read_by_what_they_are(write_tif: Any, picture: np.ndarray) -> None:
    bands, window = picture.transpose(2, 0, 1), Window(30, 50, 60, 70)
    part = picture[30:90, 50:120]
    grey = np.repeat(part[..., :1], 3, axis=2)
    table = np.random.default_rng(0).integers(0, 256, (256, 3))
    colors = {index: (*map(int, color), 255) for index, color in enumerate(table)}
    for name, values, more, expected in (
        ("rgb", bands, {}, part),
        ("near infrared", np.concatenate([bands, bands[:1]]), {"photometric": "RGB", "alpha": "NO"}, part),
        ("one", bands[:1], {}, grey),
        ("two", bands[:2], {}, grey),
        ("sixteen bits", bands.astype(np.uint16) * 257, {}, part),
        ("palette", bands[:1], {"colors": colors}, table[part[..., 0]]),
    ):
        source = GeoTiff(write_tif(f"{name}.tif", values, **more))
        np.testing.assert_array_equal(source.read(window), expected, err_msg=name)
        assert source.valid(window).all() and source.size == picture.shape[:2] and 0.5 < source.brightest <= 1
    with pytest.raises(UserError, match="type int16"):
        GeoTiff(write_tif("signed.tif", bands.astype(np.int16)))


def test_what_holds_no_data_has_no_label(
    write_tif: Any, picture: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra 'geo'")
    from rasterio.control import GroundControlPoint

    bands = np.maximum(picture[:100, :130].transpose(2, 0, 1), 1)
    empty = np.zeros(bands.shape[1:], bool)
    empty[:40, 20:70], empty[90:, 100] = True, True
    alpha = np.where(empty, 0, 255).astype(np.uint8)[None]
    points = [GroundControlPoint(row, column, 10.0 + column, 50.0 - row) for row, column in ((0, 0), (0, 99), (99, 0))]
    for name, values, more in (
        ("value", np.where(empty, 0, bands), {"nodata": 0}),
        ("alpha", np.concatenate([bands, alpha]), {"photometric": "RGB", "alpha": "YES"}),
        ("points", np.where(empty, 0, bands), {"nodata": 0, "gcps": points}),
    ):
        path = write_tif(f"{name}.tif", values, **more)
        words = ["--words", "; ".join(WORDS), "--system", "toybox/maskclip", "--others", "none"]
        keys = ["--set", "TEST.LARGE.TILE", "96", "TEST.LARGE.OVERLAP", "30", "MODEL.CLIP.TEXT_CACHE", ""]
        run(["large", str(path), *words, "--output", str(tmp_path / "out.tif"), *keys])
        assert f"no data: {100 * empty.mean():.1f} %" in capsys.readouterr().out
        with rasterio.open(tmp_path / "out.tif") as file:
            np.testing.assert_array_equal(file.read(1) == 255, empty, err_msg=name)
            found, _ = file.gcps
            assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in more.get("gcps", [])]


def test_a_picture_of_few_bits_is_told_of(
    write_tif: Any, picture: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tif("dark.tif", picture[:60, :70].transpose(2, 0, 1).astype(np.uint16) * 16)
    words = ["--words", "sky; sand", "--system", "toybox/maskclip", "--others", "none"]
    run(["large", str(path), *words, "--output", str(tmp_path / "out.tif"), "--set", "MODEL.CLIP.TEXT_CACHE", ""])
    share = int(picture[:60, :70].max()) * 16 / 65535
    assert f"no pixel is brighter than {100 * share:.0f} % of what its bits hold" in capsys.readouterr().out


def test_a_damaged_geotiff_and_a_full_disk_are_errors(
    write_tif: Any, picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tif("a.tif", picture.transpose(2, 0, 1))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"a\.tif' can't be read as GeoTIFF"):
        GeoTiff(path).read(Window(0, 0, *picture.shape[:2]))
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.tif' can't be read as GeoTIFF"):
        GeoTiff(path)
    path.unlink()
    labels = np.random.default_rng(0).integers(-1, 3, (300, 400))

    def cut_off(file: Path, counts: np.ndarray) -> bool:
        """GDAL tells nobody of a full disk."""
        assert _holds(file, counts) and not _holds(file, np.roll(counts, 1))
        os.truncate(file, file.stat().st_size // 2)
        return _holds(file, counts)

    monkeypatch.setattr(geotiff, "_holds", cut_off)
    with (
        pytest.raises(UserError, match="it is not whole; make room"),
        geotiff.label_writer(tmp_path / "out.tif", labels.shape, ("a", "b", "c"), {}) as write,
    ):
        write(Window(0, 0, 300, 400), labels)
    assert not list(tmp_path.iterdir())


def test_bad_overlap_and_output(tmp_path: Path) -> None:
    words = ["large", str(tmp_path), "--words", "sky; sand", "--system", "toybox/maskclip", "--output"]
    with pytest.raises(UserError, match="ends in"):
        run([*words, str(tmp_path / "a.jpg")])
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="less than TEST"):
        run(["large", str(tmp_path / "a.png"), *words[2:], "b.png", "--set", "TEST.LARGE.OVERLAP", "1024"])


def test_no_picture_is_written_over(tmp_path: Path, picture: np.ndarray) -> None:
    """Neither the one that is labelled nor another that twostage has not written."""
    for name in ("scene.png", "other.png", "other.tif"):
        Image.fromarray(picture).save(tmp_path / name)
    words = ["large", str(tmp_path / "scene.png"), "--words", "sky; sand", "--system", "toybox/maskclip", "--output"]
    with pytest.raises(UserError, match="is the picture itself"):
        run([*words, str(tmp_path / "scene.png")])
    for name in ("other.png", "other.tif"):
        with pytest.raises(UserError, match="has not written it"):
            run([*words, str(tmp_path / name)])
