"""Augmentations: sizes, random draws and pixels. Goldens were taken from upstream under numpy's seed."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from PIL import Image


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "short", "longest", "expected"),
    [
        (480, 640, 640, 2560, (640, 853)),
        (375, 500, 512, 2048, (512, 683)),
        (683, 1024, 448, 1792, (448, 672)),
        (100, 1000, 640, 2560, (256, 2560)),
        (333, 501, 224, 10000, (224, 337)),
        (427, 640, 640, 2560, (640, 959)),
    ],
)
def test_shortest_edge_sizes(height: int, width: int, short: int, longest: int, expected: tuple[int, int]) -> None:
    assert T.ResizeShortestEdge.get_output_shape(height, width, short, longest) == expected
    drawn = T.ResizeShortestEdge([short], longest, "choice").get_transform(np.zeros((height, width, 3), np.uint8))
    assert (drawn.new_h, drawn.new_w) == expected


def test_shortest_edge_draws() -> None:
    image = np.zeros((50, 60, 3), np.uint8)
    np.random.seed(3)
    choice = [T.ResizeShortestEdge((20, 30, 40), sys.maxsize, "choice").get_transform(image).new_h for _ in range(8)]
    drawn = [T.ResizeShortestEdge((20, 40), sys.maxsize).get_transform(image).new_h for _ in range(4)]
    np.random.seed(3)
    assert choice == [np.random.choice((20, 30, 40)) for _ in range(8)]
    assert drawn == [np.random.randint(20, 41) for _ in range(4)]
    assert isinstance(T.ResizeShortestEdge(0).get_transform(image), T.NoOpTransform)


def test_resize_pixels() -> None:
    image = picture(7, 9)
    resize = T.ResizeTransform(7, 9, 5, 4)
    expected = np.asarray(Image.fromarray(image).resize((4, 5), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize.apply_image(image), expected)
    np.testing.assert_array_equal(resize.apply_image(image[:, ::-1][:, ::-1]), expected)
    labels = picture(7, 9)[:, :, 0]
    nearest = np.asarray(Image.fromarray(labels).resize((4, 5), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(resize.apply_segmentation(labels), nearest)
    # Other types: bilinear without smoothing, and torch's nearest neighbour.
    ramp = np.arange(16, dtype=np.float32).reshape(4, 4)
    half = T.ResizeTransform(4, 4, 2, 2)
    np.testing.assert_allclose(half.apply_image(ramp), [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(half.apply_segmentation(ramp), [[0, 2], [8, 10]])
    assert half.apply_image(ramp[:, :, None]).shape == (2, 2, 1)
    np.testing.assert_allclose(resize.apply_coords(np.array([[9.0, 7.0]])), [[4.0, 5.0]])
    assert resize.inverse().apply_image(expected).shape == (7, 9, 3)
    assert T.TransformList([resize]).inverse().apply_image(expected).shape == (7, 9, 3)


def test_resize_scale_and_fixed_size_crop() -> None:
    np.random.seed(5)
    scale = T.ResizeScale(0.5, 2.0, 40, 40).get_transform(np.zeros((30, 50, 3), np.uint8))
    np.random.seed(5)
    ratio = 40 * np.random.uniform(0.5, 2.0) / 50
    assert (scale.new_h, scale.new_w) == (round(30 * ratio), round(50 * ratio))

    image, place = picture(30, 50), np.random.RandomState(1).uniform()
    np.random.seed(1)
    inputs = T.AugInput(image, sem_seg=image[:, :, 0])
    drawn = T.AugmentationList([T.FixedSizeCrop((40, 20), seg_pad_value=7)])(inputs)
    left = round(30 * place)
    assert inputs.image.shape == (40, 20, 3) and inputs.image.dtype == np.uint8
    np.testing.assert_array_equal(inputs.image[:30], image[:, left : left + 20])
    assert (inputs.image[30:] == 128).all() and (inputs.sem_seg[30:] == 7).all()
    np.testing.assert_array_equal(drawn.apply_image(image), inputs.image)


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [
        ("absolute", (512, 512), (100, 512)),
        ("relative", (0.5, 0.25), (50, 175)),
    ],
)
def test_crop_sizes(kind: str, size: tuple[float, float], expected: tuple[int, int]) -> None:
    assert T.RandomCrop(kind, size).get_crop_size((100, 700)) == expected


def test_crop_draws_size_then_top_then_left() -> None:
    image = picture(40, 60)
    np.random.seed(2)
    crop = T.RandomCrop("absolute_range", (10, 30)).get_transform(image)
    np.random.seed(2)
    height, width = np.random.randint(10, 31), np.random.randint(10, 31)
    top, left = np.random.randint(40 - height + 1), np.random.randint(60 - width + 1)
    np.testing.assert_array_equal(crop.apply_image(image), image[top : top + height, left : left + width])
    np.random.seed(2)
    relative = T.RandomCrop("relative_range", (0.5, 0.9)).get_transform(image)
    np.random.seed(2)
    share = np.random.rand(2) * (1 - np.array([0.5, 0.9], np.float32)) + np.array([0.5, 0.9], np.float32)
    assert (relative.h, relative.w) == (int(40 * share[0] + 0.5), int(60 * share[1] + 0.5))


def test_category_area_constraint() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 20:] = 1
    labels[:, 38:] = 255
    image = np.repeat(labels[:, :, None], 3, 2)
    crop = T.RandomCrop_CategoryAreaConstraint("absolute", (16, 16), 0.75, ignored_category=255)
    np.random.seed(0)
    lefts = []
    for _ in range(20):
        drawn = crop.get_transform(image, labels)
        _, areas = np.unique(drawn.apply_segmentation(labels), return_counts=True)
        lefts.append(drawn.x0)
        assert len(areas) > 1 and areas.max() < 0.75 * areas.sum()
    assert lefts == [15, 9, 14, 13, 9, 15, 14, 9, 10, 11, 10, 14, 12, 12, 14, 13, 9, 10, 14, 9]
    uniform = np.zeros_like(labels)
    np.random.seed(0)
    drawn = crop.get_transform(image, uniform)
    np.random.seed(0)
    tries = [(np.random.randint(25), np.random.randint(25)) for _ in range(10)]
    assert (drawn.y0, drawn.x0) == tries[-1], "the last of ten tries is used"


def test_flip_draws_even_when_it_does_not_flip() -> None:
    image = picture(4, 6)
    np.random.seed(0)
    kinds = [type(T.RandomFlip().get_transform(image)).__name__ for _ in range(6)]
    np.random.seed(0)
    expected = ["HFlipTransform" if np.random.uniform() < 0.5 else "NoOpTransform" for _ in range(6)]
    assert kinds == expected and len(set(kinds)) == 2
    assert isinstance(T.RandomFlip(1.0, horizontal=False, vertical=True).get_transform(image), T.VFlipTransform)
    with pytest.raises(ValueError):
        T.RandomFlip(horizontal=True, vertical=True)


def test_lists_inputs_and_nesting() -> None:
    image, labels = picture(8, 6), picture(8, 6)[:, :, 0]
    inputs = T.AugInput(image, boxes=np.array([[0.0, 1.0, 2.0, 3.0]]), sem_seg=labels)
    flip, crop = T.RandomFlip(1.0), T.CropTransform(1, 2, 4, 5)
    drawn = T.AugmentationList([flip, T.AugmentationList([crop])])(inputs)
    np.testing.assert_array_equal(inputs.image, image[:, ::-1][2:7, 1:5])
    np.testing.assert_array_equal(inputs.sem_seg, labels[:, ::-1][2:7, 1:5])
    np.testing.assert_allclose(inputs.boxes, [[3.0, -1.0, 5.0, 1.0]])
    result, again = T.apply_transform_gens([flip, crop], image)
    np.testing.assert_array_equal(result, inputs.image)
    np.testing.assert_array_equal(drawn.apply_image(image), again.apply_image(image))
    assert T.StandardAugInput is T.AugInput and T.TransformGen is T.Augmentation


def test_inputs_are_found_by_name() -> None:
    class NeedsLabels(T.Augmentation):
        def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> T.Transform:
            return T.CropTransform(0, 0, int(sem_seg.max()), 1)

    inputs = T.AugInput(picture(4, 6), sem_seg=np.full((4, 6), 3))
    NeedsLabels()(inputs)
    assert inputs.image.shape == (1, 3, 3)


def test_repr_names_what_is_not_default() -> None:
    assert repr(T.RandomFlip()) == "RandomFlip()"
    assert repr(T.RandomFlip(0.3)) == "RandomFlip(prob=0.3)"


@pytest.mark.parametrize(
    ("image_format", "expected"),
    [
        ("RGB", [11437, 14243, 14029, 11255, 12277, 10319]),
        ("BGR", [11304, 14328, 14029, 11255, 12452, 10319]),
    ],
)
def test_ssd_colours(image_format: str, expected: list[int]) -> None:
    image = picture(5, 6)
    augment = ColorAugSSDTransform(image_format)
    random.seed(0)
    sums = [int(augment.apply_image(image).astype(int).sum()) for _ in range(6)]
    assert sums == expected
    assert augment.apply_segmentation(image) is image
