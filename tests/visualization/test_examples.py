"""Which images the report shows, and what their panels hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.data.labels import write_label_map
from twostage.errors import UserError
from twostage.visualization.examples import class_colors, example_picture, make_example, pick_images
from twostage.visualization.overlay import draw_names, enlarged, overlay
from twostage.visualization.palette import palette


def images(*mious: float | None) -> list[dict]:
    return [{"file_name": f"{i}.jpg", "miou": miou} for i, miou in enumerate(mious)]


def test_pick_best_median_worst() -> None:
    picked = pick_images(images(30.0, None, 90.0, 10.0, 50.0, 70.0))
    assert picked == {
        "Best": "2.jpg", "Upper quartile": "5.jpg", "Median": "4.jpg", "Lower quartile": "0.jpg", "Worst": "3.jpg"
    }  # fmt: skip


def test_pick_from_few_shows_none_twice() -> None:
    assert pick_images(images(10.0, 20.0)) == {"Best": "1.jpg", "Lower quartile": "0.jpg"}
    assert pick_images(images(10.0)) == {"Best": "0.jpg"}
    assert pick_images(images(None)) == {}


@pytest.fixture
def results(tmp_path: Path) -> dict[str, dict]:
    """Two systems' results on one picture of 64 x 80 pixels."""
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    maps = {"truth": np.zeros((64, 80), int), "one": np.full((64, 80), 1), "two": np.full((64, 80), 2)}
    for name, labels in maps.items():
        write_label_map(tmp_path / f"{name}.png", labels)
    return {
        name: {
            "dataset": "nowhere_registered",
            "class_names": ["grass", "sand", "blue star"],
            "unseen_classes": [2],
            "images": [
                {
                    "file_name": str(tmp_path / "a.png"),
                    "sem_seg_file_name": str(tmp_path / "truth.png"),
                    "prediction": str(tmp_path / f"{name}.png"),
                    "miou": miou,
                }
            ],
        }
        for name, miou in (("one", 12.34), ("two", None))
    }


def test_panels(results: dict[str, dict], tmp_path: Path) -> None:
    example = make_example("Best", str(tmp_path / "a.png"), results)
    assert [title for title, _ in example.panels] == ["image", "one", "two", "ground truth"]
    assert example.caption == "a.png, mIoU of this image: one 12.3 %, two without labels"
    colors = palette(3)
    assert example.classes == [
        (name, tuple(int(v) for v in colors[i]), i == 2) for i, name in enumerate(["grass", "sand", "blue star"])
    ]
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    for (_, panel), label in zip(example.panels[1:], (1, 2, 0), strict=True):
        large, labels = enlarged(picture, np.full((64, 80), label))
        expected = draw_names(overlay(large, labels, colors), labels, ["grass", "sand", "blue star"], shown_at=0.7)
        assert np.array_equal(panel, expected)
    drawn = example_picture(example)
    assert drawn.shape[1] == 4 * 480 + 5 * 10


def test_colours_of_the_dataset_come_first() -> None:
    assert class_colors([[1, 2, 3], [4, 5, 6]], 2).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert class_colors([[1, 2, 3]], 3).tolist() == [[1, 2, 3], *palette(3)[1:].tolist()]
    assert np.array_equal(class_colors(None, 2), palette(2))


def test_without_saved_predictions_or_picture(results: dict[str, dict], tmp_path: Path) -> None:
    name = str(tmp_path / "a.png")
    Image.new("RGB", (80, 64)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"no saved prediction for '.*b\.png'.*TEST\.SAVE_PREDICTIONS"):
        make_example("Best", str(tmp_path / "b.png"), results)
    results["two"]["images"][0]["prediction"] = None
    with pytest.raises(UserError, match=r"no saved prediction for '.*a\.png'"):
        make_example("Best", name, results)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"image '.*a\.png' can't be read"):
        make_example("Best", name, results)
