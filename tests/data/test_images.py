"""Reading pictures: whatever is wrong with a file is one kind of error, and the other files get done."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twostage.data import images
from twostage.data.images import open_image, read_rgb
from twostage.data.labels import read_label_map
from twostage.data.loaders import SampleStream, build_test_loader
from twostage.data.segment_maps import read_segment_map
from twostage.errors import UserError


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_rgb(tmp_path / "a.png")
    assert np.array_equal(read, pixels) and read.flags.writeable and read.flags.c_contiguous
    assert np.array_equal(read_rgb(io.BytesIO((tmp_path / "a.png").read_bytes())), pixels)


def broken_files(folder: Path) -> list[Path]:
    """Files that are no pictures, each in its own way."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(buffer, "PNG")
    png = buffer.getvalue()
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    huge = (
        png[:8] + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + png[33:]
    )
    contents = {
        "empty.png": b"",
        "text.jpg": b"no picture at all",
        "cut.png": png[: len(png) // 2],
        "head.png": png[:30],
        "flipped.png": png[:45] + bytes([png[45] ^ 255]) + png[46:],
        "huge.png": huge,
        "cut.tif": b"II*\0\x08\0\0\0\x01\0",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png' is no file"):
        read_rgb(tmp_path / "a.png")
    assert not images.is_own_output(tmp_path / "a.png")
    assert images.list_images([tmp_path]) == [tmp_path / "a.png"]


@pytest.mark.parametrize("read", [read_rgb, read_label_map, read_segment_map])
def test_broken_files_are_named_in_one_line(read: Any, tmp_path: Path) -> None:
    for path in [*broken_files(tmp_path), tmp_path / "missing.png", tmp_path]:
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        Image.DecompressionBombError("too many"), MemoryError(), OverflowError("x"), struct.error("x"), SyntaxError("x"),
        zlib.error("x"), EOFError(), IndexError("x"), KeyError("x"), TypeError("x"), NotImplementedError("x"), OSError("x"),
    ],
)  # fmt: skip
def test_whatever_a_decoder_raises_is_one_kind_of_error(error: Exception, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)

    def fail(image: Any, *args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(UserError, match=r"image '.*a\.png' (is too large|can't be read) \(") as caught:
        read_rgb(path)
    assert caught.value.__cause__ is error


def test_bombs_are_refused_and_interrupts_are_not_swallowed(tmp_path: Path, monkeypatch) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    with pytest.raises(KeyboardInterrupt), open_image(tmp_path / "a.png"):
        raise KeyboardInterrupt
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(UserError, match="is too large"):
        read_rgb(tmp_path / "a.png")


def test_skip_broken_survives_every_one(tmp_path: Path, monkeypatch) -> None:
    """Training takes another picture, evaluation leaves it out with the reason."""
    from twostage.config import default_config
    from twostage.data import loaders

    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    records = [{"file_name": str(path)} for path in [tmp_path / "good.png", *broken_files(tmp_path)]]

    def read(record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "image": images.read_rgb(record["file_name"])}

    stream = SampleStream(records, mapper=read, seed=0, skip_broken=True)
    samples = [stream[number] for number in range(3)]
    assert all(Path(sample["file_name"]).name == "good.png" for sample in samples)
    assert any(sample["broken"] for sample in samples)
    cfg = default_config()
    cfg.DATALOADER.NUM_WORKERS, cfg.TEST.SKIP_BROKEN = 0, True
    monkeypatch.setattr(loaders, "dataset_records", lambda info, **_: records)
    entries = [entry for batch in build_test_loader(cfg, "toybox_val_open", mapper=read) for entry in batch]
    assert ["broken" in entry for entry in entries] == [False] + [True] * (len(records) - 1)


def test_deep_pictures_are_scaled_by_their_range(tmp_path: Path) -> None:
    """65535 becomes 255 and not all above 255 white; what else an integer or float picture may hold is told by its largest."""
    grey = np.linspace(0, 65535, 96 * 64).reshape(64, 96).astype(np.uint16)
    expected = np.rint(grey / 257).astype(np.uint8)
    pictures = {
        "sixteen.png": grey,
        "sixteen.tif": grey,
        "integers.tif": grey.astype(np.int32),
        "unit.tif": (grey / 65535).astype(np.float32),
        "bytes.tif": (grey / 257).astype(np.float32),
        "small.tif": expected.astype(np.int32),
    }
    for name, values in pictures.items():
        Image.fromarray(values).save(tmp_path / name)
        read = read_rgb(tmp_path / name)
        assert read.shape == (64, 96, 3) and read.dtype == np.uint8
        assert np.abs(read.astype(int) - expected[..., None]).max() <= (0 if values.dtype != np.float32 else 1), name
    for name, value in {"nan": np.nan, "infinite": np.inf, "negative": -1.0, "large": 300.0}.items():
        values = np.full((4, 5), 0.5, np.float32)
        values[1, 2] = value
        Image.fromarray(values).save(tmp_path / f"{name}.tif")
        with pytest.raises(
            UserError, match=rf"image '.*{name}\.tif': pixels go from .* must lie on 0 to 1 or 0 to 255"
        ):
            read_rgb(tmp_path / f"{name}.tif")
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(UserError, match="0 to 70000"):
        read_rgb(tmp_path / "wide.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_path_and_pil_image_of_a_turned_photo_agree(orientation: int, tmp_path: Path) -> None:
    """Both are upright, by all eight orientations of EXIF; the right turn is Pillow's table of them, looked up by hand."""
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }
    stored = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "a.png"), turns[orientation](stored))
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(images.rgb_of(image), turns[orientation](stored))


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    """Hidden files, those of macOS, and what twostage wrote are no pictures; folders below are read, hidden ones are not."""
    for name in ("b.JPG", "a.png", "sub/c.webp", ".hidden.png", "._a.png", ".cache/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a_overlay.png", pnginfo=images.own_output())
    assert [p.relative_to(tmp_path).as_posix() for p in images.list_images([tmp_path])] == [
        "a.png",
        "b.JPG",
        "sub/c.webp",
    ]
    # A file that is named is taken, whatever it is.
    assert images.list_images([str(tmp_path / "a_overlay.png")]) == [tmp_path / "a_overlay.png"]
    with pytest.raises(UserError, match="holds no pictures"):
        images.list_images([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"'.*missing' does not exist"):
        images.list_images([tmp_path / "missing"])


def test_every_picture_has_a_name_for_its_result() -> None:
    files = ["a/x.jpg", "a/x.png", "a/x_2.jpg", "b/X.jpg", "b/x.tar.jpg", "b/cafe\u0301.jpg", "c/caf\u00e9.png"]
    stems = images.unique_stems([Path(name) for name in files])
    assert stems == ["x", "x_2", "x_2_2", "X_3", "x.tar", "caf\u00e9", "caf\u00e9_2"]


def test_a_folder_tells_what_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "b.gif", "c.GIF", "d.jp2", "notes.txt", "paper.pdf", ".e.gif"):
        (tmp_path / name).touch()
    assert images.list_images([tmp_path]) == [tmp_path / "a.png"]
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        f"Left out of folder '{tmp_path}': 2 .gif, 1 .jp2"
    ]
    caplog.clear()
    assert images.list_images([tmp_path / "b.gif"]) == [tmp_path / "b.gif"] and not caplog.records


@pytest.mark.parametrize("transparency", [3, bytes([0, 128, *[255] * 14])])
@pytest.mark.filterwarnings("error")
def test_transparency_of_palettes_is_dropped_without_a_word(transparency: int | bytes, tmp_path: Path) -> None:
    """The colours that lie below it count, as those of RGBA pictures do."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 8, 3), dtype=np.uint8)).quantize(16)
    picture.save(tmp_path / "a.png", transparency=transparency)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), np.asarray(picture.convert("RGB")))
