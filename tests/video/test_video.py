"""Videos: labels come back from the label video, rows are per frame, smoothing calms labels without mixing frames."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import twostage
from twostage.api import Segmenter
from twostage.commands.main import run
from twostage.data.toybox.dataset import plan_scenes, render
from twostage.errors import UserError
from twostage.video.frames import read_frames
from twostage.video.labels import flicker, label_frames
from twostage.visualization.overlay import draw_frame
from twostage.visualization.palette import palette
from twostage.vocabulary import Vocabulary

WORDS = ("grass", "sky", "water", "sand", "blue star")


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return twostage.load("toybox/maskclip", device="cpu", opts=["MODEL.CLIP.TEXT_CACHE", ""])


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """A camera that moves over a scene, in noise."""
    ((_, scene),) = render(plan_scenes(0, "open", 1), 0, "open")
    rng = np.random.default_rng(0)
    pictures = [scene.image[i : i + 96, i : i + 112].astype(float) for i in range(5)]
    return [np.clip(p + rng.normal(0, 25, p.shape), 0, 255).astype(np.uint8) for p in pictures]


def test_smoothing(segmenter: Segmenter, frames: list[np.ndarray]) -> None:
    vocabulary = Vocabulary(WORDS)
    alone = [result.labels for result in label_frames(segmenter, frames, vocabulary)]
    for labels, picture in zip(alone, frames, strict=True):
        np.testing.assert_array_equal(labels, segmenter(picture, vocabulary, others=None).labels)
    smoothed = [result.labels for result in label_frames(segmenter, frames, vocabulary, smooth=0.7)]
    np.testing.assert_array_equal(smoothed[0], alone[0])
    assert flicker(smoothed) < flicker(alone)
    # A frame of another size starts anew.
    *_, last = label_frames(segmenter, [frames[0], frames[1][:90]], vocabulary, smooth=0.7)
    np.testing.assert_array_equal(last.labels, segmenter(frames[1][:90], vocabulary, others=None).labels)


def test_command(segmenter: Segmenter, frames: list[np.ndarray], tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="needs the extra 'video'")
    (tmp_path / "frames").mkdir()
    for number, picture in enumerate(frames):
        Image.fromarray(picture).save(tmp_path / "frames" / f"{number:03d}.png")
    words = ["--words", "; ".join(WORDS), "--system", "toybox/maskclip", "--others", "none"]
    run(["video", str(tmp_path / "frames"), *words, "--output", str(tmp_path / "out")])
    with av.open(str(tmp_path / "out/labels.mkv")) as container:
        decoded = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    rows = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
    assert len(decoded) == len(rows) == len(frames) and rows[4]["seconds"] == pytest.approx(0.16)
    for labels, row, picture in zip(decoded, rows, frames, strict=True):
        expected = segmenter(picture, list(WORDS), others=None)
        np.testing.assert_array_equal(labels, expected.labels)
        assert [segment["name"] for segment in row["segments"]] == list(expected.areas())
    # The overlay is a video like any other, and goes in again.
    run(["video", str(tmp_path / "out/overlay.mp4"), *words, "--output", str(tmp_path / "again")])
    assert len((tmp_path / "again/rows.jsonl").read_text().splitlines()) == len(frames)


def test_frames_of_another_size_end_the_video_and_none_is_scaled(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs the extra 'video'")
    (tmp_path / "frames").mkdir()
    for number, size in enumerate([(64, 48), (64, 50)]):
        Image.new("RGB", size).save(tmp_path / "frames" / f"{number}.png")
    words = ["--words", "sky; sand", "--system", "toybox/maskclip", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"64x50 .* those before 64x48"):
        run(["video", str(tmp_path / "frames"), *words])
    assert not list((tmp_path / "out").iterdir())


def test_the_overlay_keeps_its_size_whatever_is_found(frames: list[np.ndarray]) -> None:
    names, colors = tuple(f"a rather long name {i}" for i in range(9)), palette(9)
    labels = np.arange(frames[0].shape[0] * frames[0].shape[1]).reshape(frames[0].shape[:2]) % 9
    shapes = {draw_frame(frames[0], np.minimum(labels, most), names, colors).shape for most in (1, 8)}
    assert len(shapes) == 1


def write_video(path: Path, pictures: list[np.ndarray]) -> bytes:
    """An mp4 of pictures; returns its content."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize(("turn", "matrix"), [(0, (1, 0, 0, 1)), (3, (0, 1, -1, 0)), (2, (-1, 0, 0, -1))])
def test_videos_of_telephones_are_turned(
    turn: int, matrix: tuple[int, ...], frames: list[np.ndarray], tmp_path: Path
) -> None:
    """By quarters counter-clockwise, as the matrix of the track (ISO 14496-12) says."""
    pytest.importorskip("av", reason="needs the extra 'video'")
    content = bytearray(write_video(tmp_path / "a.mp4", frames))
    place = content.index(b"tkhd") + 44
    a, b, c, d = (value * 65536 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    plain = [frame.pixels for frame in read_frames(tmp_path / "a.mp4").frames]
    (tmp_path / "turned.mp4").write_bytes(content)
    turned = [frame.pixels for frame in read_frames(tmp_path / "turned.mp4").frames]
    assert len(turned) == len(frames)
    for one, other in zip(plain, turned, strict=True):
        np.testing.assert_array_equal(np.rot90(one, turn), other)


def test_a_video_that_is_damaged_or_empty_replaces_nothing(frames: list[np.ndarray], tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs the extra 'video'")
    content = bytearray(write_video(tmp_path / "a.mp4", frames * 3))
    start, end = content.index(b"mdat"), content.index(b"moov")
    middle = (start + end) // 2
    content[middle : end - 8] = b"\xff\0" * ((end - 8 - middle) // 2) + bytes((end - 8 - middle) % 2)
    (tmp_path / "damaged.mp4").write_bytes(content)
    write_video(tmp_path / "none.mkv", frames)
    # A header and the beginning of the first frame.
    whole = (tmp_path / "none.mkv").read_bytes()
    (tmp_path / "none.mkv").write_bytes(whole[: whole.index(b"\x1f\x43\xb6\x75") + 100])
    words = ["--words", "sky; sand", "--system", "toybox/maskclip", "--others", "none"]
    run(["video", str(tmp_path / "a.mp4"), *words, "--output", str(tmp_path / "out")])
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for name, reason in (("damaged.mp4", r"is damaged behind \d+ frames"), ("none.mkv", "holds no frames")):
        with pytest.raises(UserError, match=reason):
            run(["video", str(tmp_path / name), *words, "--output", str(tmp_path / "out")])
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_nobody_elses_video_is_replaced(frames: list[np.ndarray], tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs the extra 'video'")
    write_video(tmp_path / "overlay.mp4", frames)
    words = ["--words", "sky; sand", "--system", "toybox/maskclip", "--others", "none", "--output", str(tmp_path)]
    with pytest.raises(UserError, match=r"overlay\.mp4' would be replaced, and twostage has not written it"):
        run(["video", str(tmp_path / "overlay.mp4"), *words])


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 10, 9):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    assert [int(frame.pixels[0, 0, 0]) for frame in read_frames(tmp_path).frames] == [1, 2, 9, 10]


def test_what_is_no_video(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs the extra 'video'")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    words = ["--words", "sky; sand", "--system", "toybox/maskclip", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="can't be read as a video"):
        run(["video", str(tmp_path / "a.mp4"), *words])
    with pytest.raises(UserError, match="does not exist"):
        run(["video", str(tmp_path / "b.mp4"), *words])
