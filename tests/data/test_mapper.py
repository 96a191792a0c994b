"""Reading, checking and augmenting records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

import twostage  # noqa: F401
from twostage.config import default_config, load_config
from twostage.data.augmentation import PadRightBottom, evaluation_augmentations, training_augmentations
from twostage.data.mapper import SemanticTestMapper, SemanticTrainingMapper
from twostage.data.randomness import seeded_sampling
from twostage.errors import UserError


def write_record(folder: Path, image: np.ndarray, labels: np.ndarray, name: str = "a") -> dict[str, Any]:
    Image.fromarray(image).save(folder / f"{name}.png")
    Image.fromarray(labels).save(folder / f"{name}_labels.png")
    return {"file_name": str(folder / f"{name}.png"), "sem_seg_file_name": str(folder / f"{name}_labels.png")}


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 10, 20, 30
    image[:, 15:] = (200, 100, 50)
    labels = np.zeros((20, 30), np.uint8)
    labels[:, 15:] = 2
    labels[:5] = 255
    return write_record(tmp_path, image, labels)


def training_mapper(augmentations: list[Any] | None = None, **changes: Any) -> SemanticTrainingMapper:
    return SemanticTrainingMapper(
        **{"augmentations": augmentations or [], "num_classes": 3, "ignore_label": 255} | changes
    )


def test_output_without_augmentation(record: dict[str, Any]) -> None:
    out = training_mapper()({**record, "dataset_name": "some"})
    assert out["image"].dtype == torch.uint8 and out["image"].shape == (3, 20, 30)
    assert out["image"][:, 0, 0].tolist() == [10, 20, 30]  # RGB
    assert out["sem_seg"].dtype == torch.int64 and out["sem_seg"].shape == (20, 30)
    instances = out["instances"]
    assert instances.image_size == (20, 30)
    assert instances.gt_classes.tolist() == [0, 2] and instances.gt_classes.dtype == torch.int64
    assert instances.gt_masks.dtype == torch.bool and instances.gt_masks.shape == (2, 20, 30)
    assert instances.gt_masks.sum((1, 2)).tolist() == [15 * 15, 15 * 15]
    assert not instances.gt_masks[:, :5].any()
    assert (out["height"], out["width"], out["dataset_name"]) == (20, 30, "some")
    assert out["file_name"] == record["file_name"]


def test_padding_is_right_and_bottom_with_value_and_ignore(record: dict[str, Any]) -> None:
    out = training_mapper([PadRightBottom(size=40, value=128, label=255)])(record)
    assert out["image"].shape == (3, 40, 40)
    assert (out["image"][:, 20:] == 128).all() and (out["image"][:, :, 30:] == 128).all()
    assert out["image"][:, 19, 29].tolist() == [200, 100, 50]
    assert (out["sem_seg"][20:] == 255).all() and (out["sem_seg"][:, 30:] == 255).all()
    assert out["instances"].gt_masks.shape == (2, 40, 40)
    assert (out["height"], out["width"]) == (20, 30)


def test_image_of_ignored_pixels_has_no_instances(tmp_path: Path) -> None:
    record = write_record(tmp_path, np.zeros((8, 9, 3), np.uint8), np.full((8, 9), 255, np.uint8))
    instances = training_mapper()(record)["instances"]
    assert instances.gt_masks.shape == (0, 8, 9) and instances.gt_classes.shape == (0,)


def test_recipe_order_and_sizes() -> None:
    cfg = default_config()
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [64, 64]
    cfg.INPUT.COLOR_AUG_SSD, cfg.INPUT.PAD_TO = True, 64
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (32, 48, 96), "choice"
    steps = training_augmentations(cfg, 255)
    assert [type(step).__name__ for step in steps] == [
        "ResizeShortEdge",
        "RandomCrop_CategoryAreaConstraint",
        "ColorAugSSDTransform",
        "RandomFlip",
        "PadRightBottom",
    ]
    for seed in range(8):
        with seeded_sampling(seed):
            sample = T.AugInput(np.zeros((40, 60, 3), np.uint8), sem_seg=np.zeros((40, 60), np.uint8))
            transforms = T.AugmentationList(steps)(sample)
        assert sample.image.shape == (64, 64, 3)
        resized = transforms.transforms[0]
        assert (resized.new_h, resized.new_w) in {(32, 48), (48, 72), (96, 144)}
        crop = transforms.transforms[1]
        assert (crop.h, crop.w) == (min(64, resized.new_h), min(64, resized.new_w))

    cfg.INPUT.CROP.ENABLED, cfg.INPUT.COLOR_AUG_SSD, cfg.INPUT.PAD_TO, cfg.INPUT.RANDOM_FLIP = False, False, 0, "none"
    assert len(training_augmentations(cfg, 255)) == 1


def test_scale_jitter_fits_pictures_into_a_square_of_a_random_side() -> None:
    """Large-scale jitter: sides between a tenth and twice the crop's, drawn evenly, the ratio kept; the crop has its size."""
    cfg = default_config()
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", (100, 100)
    cfg.INPUT.SCALE_JITTER, cfg.INPUT.PAD_TO, cfg.INPUT.MIN_SIZE_TRAIN = (0.1, 2.0), 100, (7,)
    first, *rest = training_augmentations(cfg, 255)
    image = np.zeros((60, 120, 3), np.uint8)
    np.random.seed(0)
    sizes = [first.get_transform(image).apply_image(image).shape[:2] for _ in range(400)]
    long = np.array([width for _, width in sizes])
    assert all(abs(2 * height - width) <= 1 for height, width in sizes)
    assert 10 <= long.min() < 14 and 196 < long.max() <= 200
    assert abs(long.mean() - 105) < 6, "evenly drawn: the mean is half way"
    sample = T.AugInput(image, sem_seg=np.zeros((60, 120), np.uint8))
    T.AugmentationList([first, *rest])(sample)
    assert sample.image.shape == (100, 100, 3) and sample.sem_seg.shape == (100, 100)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["INPUT.SCALE_JITTER", "(2.0, 0.1)"], "least, most"),
        (["INPUT.SCALE_JITTER", "(0.1, 2.0)"], "INPUT.CROP is off"),
        (["INPUT.SCALE_JITTER", "(0.1, 2.0)", "INPUT.CROP.ENABLED", "True"], "relative_range"),
    ],
)
def test_scale_jitter_needs_a_square_crop(opts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(opts=opts)


def test_sampling_is_a_function_of_the_seed_and_leaves_the_global_state(record: dict[str, Any]) -> None:
    cfg = default_config()
    cfg.INPUT.COLOR_AUG_SSD, cfg.INPUT.MIN_SIZE_TRAIN = True, (16, 64)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    mapper = training_mapper(training_augmentations(cfg, 255))

    def sample(seed: int) -> torch.Tensor:
        with seeded_sampling(seed):
            return mapper(record)["image"]

    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    images = [sample(seed) for seed in (0, 1, 2, 3, 0)]
    assert (torch.rand(1), np.random.rand()) == expected
    assert torch.equal(images[0], images[4])
    assert len({tuple(image.shape) for image in images}) > 1


def test_labels_above_255(tmp_path: Path) -> None:
    labels = np.zeros((10, 10), np.uint16)
    labels[:, 5:] = 700
    labels[0] = 65535
    Image.fromarray(labels).save(tmp_path / "l.tif")
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(tmp_path / "i.png")
    record = {"file_name": str(tmp_path / "i.png"), "sem_seg_file_name": str(tmp_path / "l.tif")}
    steps = [T.ResizeShortestEdge(20), PadRightBottom(size=30, value=0, label=65535)]
    out = training_mapper(steps, num_classes=847, ignore_label=65535)(record)
    assert out["instances"].gt_classes.tolist() == [0, 700]
    assert (out["sem_seg"][2:20, 10:20] == 700).all() and (out["sem_seg"][20:] == 65535).all()


def test_errors_name_file_and_value(tmp_path: Path, record: dict[str, Any]) -> None:
    mapper = training_mapper()
    with pytest.raises(UserError, match=r"gone\.png' does not exist"):
        mapper({**record, "file_name": str(tmp_path / "gone.png")})
    whole = Path(record["file_name"]).read_bytes()
    for name, content in (("cut.png", whole[: len(whole) // 2]), ("text.png", b"hello"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"image '{tmp_path}/{name}' can't be read \(") as caught:
            mapper({**record, "file_name": str(tmp_path / name)})
        assert "\n" not in str(caught.value)
    wrong = write_record(tmp_path, np.zeros((20, 30, 3), np.uint8), np.full((20, 30), 3, np.uint8), "wrong")
    with pytest.raises(
        UserError, match=r"wrong_labels\.png' holds the value 3; allowed are the 3 classes 0\.\.2 and 255"
    ):
        mapper(wrong)
    small = write_record(tmp_path, np.zeros((20, 30, 3), np.uint8), np.zeros((30, 20), np.uint8), "small")
    with pytest.raises(UserError, match=r"small_labels\.png' is 30x20 .* its image is 20x30"):
        mapper(small)
    colour = write_record(tmp_path, np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30, 3), np.uint8), "colour")
    with pytest.raises(UserError, match=r"colour_labels\.png. is a colour picture"):
        mapper(colour)


def test_test_mapper_resizes_the_image_only(tmp_path: Path, record: dict[str, Any]) -> None:
    cfg = default_config()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 40, 50
    Path(record["sem_seg_file_name"]).unlink()
    out = SemanticTestMapper.from_config(cfg)({**record, "dataset_name": "x"})
    assert out["image"].shape == (3, 33, 50)  # 40 x 60, scaled down to 50 wide
    assert (out["height"], out["width"], out["dataset_name"]) == (20, 30, "x")
    assert "sem_seg" not in out
    with pytest.raises(UserError, match="does not exist"):
        SemanticTestMapper(augmentations=evaluation_augmentations(cfg))({"file_name": str(tmp_path / "none.jpg")})


def test_mapper_from_config_takes_classes_from_the_dataset() -> None:
    cfg = default_config()
    MetadataCatalog.get("mapper_test_set").set(stuff_classes=["a", "b"], ignore_label=9)
    cfg.DATASETS.TRAIN = ("mapper_test_set",)
    mapper = SemanticTrainingMapper.from_config(cfg)
    assert (mapper.num_classes, mapper.ignore_label) == (2, 9)
