"""Miniature downloads in each original format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image
from pycocotools import mask as masks

# In the published validation list, and not in it.
CONTEXT_VAL = ("2008_000002", "2010_006086")
CONTEXT_TRAIN = ("2008_000008",)


def photo(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A random JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def save(path: Path, pixels: np.ndarray, palette: list[int] | None = None) -> None:
    """A PNG; with `palette` one of indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image = Image.fromarray(pixels, mode="P")
        image.putpalette(palette)
    image.save(path)


def coco(folder: Path, splits: tuple[str, ...] = ("train2017", "val2017")) -> dict[str, np.ndarray]:
    """stuffthingmaps_trainval2017 with one map per split, all original values in the first rows."""
    made = {}
    for split in splits:
        values = np.array([*range(182), 255] + [0] * 17, np.uint8).reshape(10, 20)
        save(folder / "stuffthingmaps_trainval2017" / split / "000000000009.png", values)
        photo(folder / split / "000000000009.jpg", 10, 20)
        made[split] = values
    return made


def ade20k_150(folder: Path, count: int = 2) -> np.ndarray:
    """ADEChallengeData2016/{images,annotations}/{training,validation}."""
    root = folder / "ADEChallengeData2016"
    values = np.arange(151, dtype=np.uint8)[np.arange(160) % 151].reshape(10, 16)
    for split, short in (("training", "train"), ("validation", "val")):
        for index in range(count):
            name = f"ADE_{short}_{index + 1:08d}"
            save(root / "annotations" / split / f"{name}.png", values)
            photo(root / "images" / split / f"{name}.jpg", 10, 16)
    return values


def ade20k_full(
    folder: Path, ids: np.ndarray, name: str = "ADE_val_00000001", scene: str = "urban/street"
) -> np.ndarray:
    """ADE20K_2021_17_01 with one picture whose object ids are `ids`; returns the photo."""
    split = {"val": "validation", "train": "training"}[name.split("_")[1]]
    root = folder / "ADE20K_2021_17_01" / "images" / "ADE" / split / scene
    pixels = photo(root / f"{name}.jpg", *ids.shape)
    colors = np.zeros((*ids.shape, 3), np.uint8)
    # Any red from 10 n to 10 n + 9 means n; blue counts instances.
    colors[..., 0] = ids // 256 * 10 + 3
    colors[..., 1] = ids % 256
    colors[..., 2] = 77
    save(root / f"{name}_seg.png", colors)
    save(root / name / "instance_000.png", np.zeros((4, 4), np.uint8))
    return pixels


def context_ids() -> np.ndarray:
    """uint16 `[20, 24]` with all ids 1..459."""
    return (np.arange(480) % 459 + 1).astype(np.uint16).reshape(20, 24)


def context_mats(folder: Path, ids: np.ndarray) -> None:
    """VOCdevkit/VOC2010/trainval/*.mat of val and train pictures, and the pictures."""
    root = folder / "VOCdevkit" / "VOC2010"
    (root / "trainval").mkdir(parents=True)
    for name in (*CONTEXT_VAL, *CONTEXT_TRAIN):
        scipy.io.savemat(root / "trainval" / f"{name}.mat", {"LabelMap": ids})
        photo(root / "JPEGImages" / f"{name}.jpg", *ids.shape)


def context_merged(folder: Path, shape: tuple[int, int] = (6, 8)) -> dict[str, list[tuple[int, np.ndarray]]]:
    """trainval_merged.json: per picture its (category id, mask) in the order of painting."""
    root = folder / "VOCdevkit" / "VOC2010"
    root.mkdir(parents=True)
    whole, left, corner = (np.zeros(shape, bool) for _ in range(3))
    whole[:], left[:, :4], corner[:2, :2] = True, True, True
    layers = {
        "2008_000002": [(415, whole), (2, left), (427, corner)],  # track? sky and so on: whatever has these ids
        "2010_006086": [(23, left), (1, corner)],  # 1 is not among the 59
        "2008_000008": [(458, whole)],
    }
    phases = {"2008_000002": "val", "2010_006086": "val", "2008_000008": "train"}
    images, annotations = [], []
    for number, (name, entries) in enumerate(layers.items(), start=1):
        photo(root / "JPEGImages" / f"{name}.jpg", *shape)
        images.append(
            {
                "file_name": f"{name}.jpg",
                "image_id": number,
                "phase": phases[name],
                "height": shape[0],
                "width": shape[1],
            }
        )
        for index, (category, mask) in enumerate(entries):
            encoded = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
            # Both encodings of COCO occur.
            counts = encoded["counts"].decode() if index % 2 == 0 else run_lengths(mask)
            segmentation = {"size": list(shape), "counts": counts}
            annotations.append({"image_id": number, "category_id": category, "segmentation": segmentation})
    content = {"images": images, "annos_segmentation": annotations, "categories": []}
    (root / "trainval_merged.json").write_text(json.dumps(content))
    return layers


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's plain run lengths: column by column, beginning with the zeros."""
    runs, value, length = [], 0, 0
    for pixel in mask.ravel(order="F").astype(int):
        if pixel == value:
            length += 1
        else:
            runs.append(length)
            value, length = pixel, 1
    return [*runs, length]


def voc(folder: Path, *, augmented_list: bool = True) -> np.ndarray:
    """VOCdevkit/VOC2012 with SegmentationClassAug: two val pictures (one all background), three of training."""
    root = folder / "VOCdevkit" / "VOC2012"
    values = np.array([*range(21), 255, 0, 0], np.uint8).reshape(4, 6)
    palette = [channel for color in range(256) for channel in (color, 255 - color, 7)]
    for name in ("2007_000033", "2007_000039", "2007_000032", "2008_000008", "2011_003276"):
        empty = name == "2007_000039"
        save(root / "SegmentationClassAug" / f"{name}.png", np.zeros_like(values) if empty else values, palette)
        photo(root / "JPEGImages" / f"{name}.jpg", 4, 6)
    photo(root / "JPEGImages" / "2007_000999.jpg", 4, 6)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_000033\n2007_000039\n")
    (lists / "train.txt").write_text("2007_000032\n")
    if augmented_list:
        (lists / "trainaug.txt").write_text(
            "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n"
            "/JPEGImages/2011_003276.jpg /SegmentationClassAug/2011_003276.png\n"
        )
    return values


def cityscapes(folder: Path) -> np.ndarray:
    """gtFine and leftImg8bit of one val city."""
    values = np.array([*range(34), 255, 7], np.uint8).reshape(6, 6)
    name = "frankfurt_000000_000294"
    save(folder / "gtFine" / "val" / "frankfurt" / f"{name}_gtFine_labelIds.png", values)
    instances = values.astype(np.uint16)
    # Two cars, one of them in two pieces, a person, and riders (25) that nobody told apart.
    instances.flat[[26, 30, 5]] = [26001, 26001, 26000]
    instances.flat[24] = 24003
    save(folder / "gtFine" / "val" / "frankfurt" / f"{name}_gtFine_instanceIds.png", instances)
    path = folder / "leftImg8bit" / "val" / "frankfurt" / f"{name}_leftImg8bit.png"
    save(path, np.zeros((6, 6, 3), np.uint8))
    return values


def ade20k_instances(folder: Path, semantic: np.ndarray) -> np.ndarray:
    """ADEChallengeData2016/annotations_instance of `ade20k_150`'s pictures: (category, number) `[H, W, 2]` of each pixel.

    Category 1 is bed (class 7), 4 person (12), 100 flag (149). Two persons touch; number 9 lies over stuff.
    """
    pairs = np.zeros((*semantic.shape, 2), np.uint8)
    pairs[0, 2:4], pairs[0, 4:6], pairs[3, 3], pairs[9, 10:] = (4, 1), (4, 2), (1, 9), (100, 200)
    colors = np.concatenate([pairs, np.full((*semantic.shape, 1), 5, np.uint8)], axis=-1)
    root = folder / "ADEChallengeData2016"
    for file in sorted((root / "annotations").rglob("*.png")):
        save(root / "annotations_instance" / file.parent.name / file.name, colors)
    return pairs


def coco_panoptic(folder: Path, split: str = "val") -> tuple[np.ndarray, list[dict]]:
    """panoptic_annotations_trainval2017 as unpacked: segment ids `[H, W]` of the one picture, and its segments."""
    ids = np.zeros((8, 10), np.int64)
    ids[:4], ids[4:, :5], ids[6:, 5:] = 70_000, 300, 16_777_215
    segments = [
        {"id": 70_000, "category_id": 187, "area": 40, "bbox": [0, 0, 10, 4], "iscrowd": 0},
        {"id": 300, "category_id": 1, "area": 20, "bbox": [0, 4, 5, 4], "iscrowd": 1},
        {"id": 16_777_215, "category_id": 90, "area": 10, "bbox": [5, 6, 5, 2], "iscrowd": 0},
    ]
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    save(folder / "annotations" / f"panoptic_{split}2017" / "000000000139.png", colors)
    content = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "height": 8, "width": 10}],
        "annotations": [{"image_id": 139, "file_name": "000000000139.png", "segments_info": segments}],
        "categories": [],
    }
    (folder / "annotations" / f"panoptic_{split}2017.json").write_text(json.dumps(content))
    photo(folder / f"{split}2017" / "000000000139.jpg", 8, 10)
    return ids, segments
