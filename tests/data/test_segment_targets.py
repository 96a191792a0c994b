"""Masks to learn from by segment: what becomes of objects, crowds, void, crops and padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from twostage.config import load_config
from twostage.data.augmentation import PadRightBottom
from twostage.data.loaders import build_train_loader, dataset_records
from twostage.data.segment_maps import write_segment_map
from twostage.data.segment_targets import PanopticTrainingMapper
from twostage.data.toybox import dataset
from twostage.data.views import dataset_info
from twostage.errors import UserError

ROOT = Path(__file__).parents[2]
# Two objects of class 1, a crowd of it, stuff of class 2, and void (0).
IDS = np.array([[7, 7, 70000, 70000], [300, 300, 0, 0], [255, 255, 255, 255]])
SEGMENTS = [
    {"id": 70000, "category_id": 1, "iscrowd": 0},
    {"id": 300, "category_id": 1, "iscrowd": 1},
    {"id": 255, "category_id": 2},
    {"id": 7, "category_id": 1, "iscrowd": 0},
]


def record_of(folder: Path, ids: np.ndarray, segments: list[dict[str, Any]]) -> dict[str, Any]:
    Image.fromarray(np.zeros((*ids.shape, 3), np.uint8)).save(folder / "a.jpg")
    Image.fromarray(np.zeros(ids.shape, np.uint16)).save(folder / "a.png")
    write_segment_map(folder / "pan.png", ids)
    names = {"file_name": "a.jpg", "sem_seg_file_name": "a.png", "pan_seg_file_name": "pan.png"}
    return {**{key: str(folder / name) for key, name in names.items()}, "segments_info": segments}


def mapper(*augmentations: T.Augmentation | T.Transform, ignore_label: int = 255) -> PanopticTrainingMapper:
    return PanopticTrainingMapper(augmentations=augmentations, num_classes=400, ignore_label=ignore_label)


@pytest.mark.parametrize("ignore_label", [255, 1, 65535])
def test_a_mask_per_object_and_stuff_class(tmp_path: Path, ignore_label: int) -> None:
    """In the order of the json; neither the padding nor the ignore label is taken for a segment's number."""
    pad = PadRightBottom(size=5, value=128, label=ignore_label)
    out = mapper(pad, ignore_label=ignore_label)(record_of(tmp_path, IDS, SEGMENTS))["instances"]
    assert out.gt_classes.tolist() == [1, 2, 1] and out.gt_masks.dtype == torch.bool
    for mask, segment in zip(out.gt_masks, (70000, 255, 7), strict=True):
        assert torch.equal(mask[:3, :4], torch.from_numpy(segment == IDS)) and mask.sum() == (segment == IDS).sum()


def test_what_the_crop_cut_away_is_an_empty_mask(tmp_path: Path) -> None:
    out = mapper(T.CropTransform(0, 0, 4, 2))(record_of(tmp_path, IDS, SEGMENTS))["instances"]
    assert out.gt_classes.tolist() == [1, 2, 1] and out.gt_masks.sum((1, 2)).tolist() == [2, 0, 2]


def test_masks_move_with_the_picture(tmp_path: Path) -> None:
    """More segments than a byte counts; twice as large, then mirrored."""
    ids = np.arange(1, 301).reshape(15, 20)
    segments = [{"id": int(i), "category_id": int(i) % 400} for i in ids.flat]
    larger = T.ResizeTransform(15, 20, 30, 40)
    out = mapper(larger, T.HFlipTransform(40))(record_of(tmp_path, ids, segments))["instances"]
    wanted = np.kron(ids, np.ones((2, 2), int))[:, ::-1].copy()
    assert torch.equal(out.gt_masks, torch.from_numpy(wanted)[None] == torch.arange(1, 301)[:, None, None])


def test_no_segments(tmp_path: Path) -> None:
    out = mapper()(record_of(tmp_path, np.zeros((3, 4), int), []))["instances"]
    assert out.gt_masks.shape == (0, 3, 4) and out.gt_classes.shape == (0,)


def test_labels_of_another_size_are_named(tmp_path: Path) -> None:
    record = record_of(tmp_path, IDS, SEGMENTS)
    write_segment_map(record["pan_seg_file_name"], IDS[:2])
    with pytest.raises(UserError, match=r"panoptic label '.*pan\.png' is 2x4 .* its image is 3x4"):
        mapper()(record)


@pytest.mark.parametrize(
    ("ids", "segments", "wrong"),
    [
        (IDS, SEGMENTS[:3], r"pan\.png' holds id 7, which its json does not list"),
        (np.where(IDS == 7, 0, IDS), SEGMENTS, r"pan\.png' has no pixel of segment 7, which its json lists"),
        (np.where(IDS == 300, 0, IDS), SEGMENTS, r"pan\.png' has no pixel of segment 300"),
    ],
)
def test_png_and_json_of_different_segments(
    tmp_path: Path, ids: np.ndarray, segments: list[dict[str, Any]], wrong: str
) -> None:
    """Neither a mask without pixels nor pixels without a mask; a crowd's id counts as listed."""
    with pytest.raises(UserError, match=wrong):
        mapper()(record_of(tmp_path, ids, segments))


def test_training_by_segment_sees_each_object_of_toybox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in ("NUM_TRAIN", "NUM_VAL_SEEN", "NUM_VAL_OPEN"):
        monkeypatch.setattr(dataset, number, 3)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg = load_config(
        str(ROOT / "configs" / "toybox" / "fcclip.yaml"),
        ["INPUT.TARGET_MASKS", "segment", "DATALOADER.NUM_WORKERS", "0"],
    )
    entry = build_train_loader(cfg).stream[0]
    told = {r["file_name"]: r["segments_info"] for r in dataset_records(dataset_info("toybox_train"), panoptic=True)}
    classes = [segment["category_id"] for segment in told[entry["file_name"]]]
    assert entry["instances"].gt_classes.tolist() == classes
    # No pixel is in two masks, and each mask holds its class alone.
    masks, sem_seg = entry["instances"].gt_masks, entry["sem_seg"]
    assert masks.sum(dim=0).max() == 1
    for mask, category in zip(masks, classes, strict=True):
        assert (sem_seg[mask] == category).float().mean() > 0.9


def test_configs_of_coco_panoptic_learn_segments() -> None:
    """All that train on it, and no others."""
    by_segment = {}
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        cfg = load_config(str(path))
        by_segment[path.stem] = (cfg.INPUT.TARGET_MASKS == "segment", "panoptic" in "".join(cfg.DATASETS.TRAIN))
    assert {stem for stem, (segments, panoptic) in by_segment.items() if segments != panoptic} == set()
    assert by_segment["fcclip_r50"][0] and by_segment["odise_caption"][0] and not by_segment["maftp_convnextb"][0]
