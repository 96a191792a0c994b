"""Videos: labels come back from the label video, rows are per frame, smoothing calms labels without mixing frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import twostage
from twostage.api import Segmenter
from twostage.commands.main import run
from twostage.data.toybox.dataset import plan_scenes, render
from twostage.errors import UserError
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


def test_what_is_no_video(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs the extra 'video'")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    words = ["--words", "sky; sand", "--system", "toybox/maskclip", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="can't be read as a video"):
        run(["video", str(tmp_path / "a.mp4"), *words])
    with pytest.raises(UserError, match="does not exist"):
        run(["video", str(tmp_path / "b.mp4"), *words])
