"""What each training-free attention sees in one scene, as one picture; see `tools/draw_attention.py`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from twostage.api import Segmenter, build_from_config
from twostage.config import load_config
from twostage.data.catalogue import DatasetInfo
from twostage.data.images import read_rgb
from twostage.data.labels import read_label_map
from twostage.data.loaders import dataset_records
from twostage.data.views import evaluated_view
from twostage.errors import UserError, near_names
from twostage.files import atomic_path, check_writable
from twostage.systems.training_free.dense_clip.keys import METHODS
from twostage.systems.training_free.dense_clip.model import TrainingFree, dense_tower_from_config
from twostage.visualization.examples import class_colors
from twostage.visualization.overlay import enlarged, legend, overlay, present_classes, side_by_side
from twostage.vocabulary import Vocabulary


def run_from_arguments(args: argparse.Namespace) -> None:
    """Draw the methods that the arguments name on one image of a dataset.

    Raises:
        UserError: an unknown method or dataset, an index that it has not, or a config of another system.
    """
    methods = args.methods or list(METHODS)
    for name in methods:
        if name not in METHODS:
            raise UserError(f"--methods has {name!r}{near_names(name, METHODS)}; there are: {', '.join(METHODS)}")
    check_writable(args.output.parent)
    cfg = load_config(args.config_file, args.opts)
    info = evaluated_view(cfg, args.dataset)
    records = dataset_records(info)
    if not 0 <= args.index < len(records):
        raise UserError(f"--index is {args.index}; '{args.dataset}' has images 0 to {len(records) - 1}")
    record = records[args.index]
    segmenter = Segmenter(build_from_config(cfg), cfg)
    if not isinstance(segmenter.model, TrainingFree):
        raise UserError(f"'{args.config_file}' builds {type(segmenter.model).__name__}; give a training-free config")
    print(f"wrote {draw(segmenter, record, info, methods, args.output)}")


def draw(segmenter: Segmenter, record: dict[str, str], info: DatasetInfo, methods: list[str], output: Path) -> Path:
    """Write the picture of all methods on one image; returns its path."""
    model = cast(TrainingFree, segmenter.model)
    vocabulary = Vocabulary.of(info)
    truth = read_label_map(record["sem_seg_file_name"])
    cfg = segmenter.cfg.clone()
    # The last block as published, whatever the config says of its own method.
    cfg.MODEL.TRAINING_FREE.LAST_BLOCK = "auto"
    maps: dict[str, np.ndarray] = {}
    for method in methods:
        cfg.MODEL.TRAINING_FREE.METHOD = method
        model.tower = dense_tower_from_config(cfg, model.clip.visual)
        labels = segmenter(record["file_name"], vocabulary, others=None).labels
        maps[f"{method} {100 * miou(labels, truth, len(vocabulary)):.0f} %"] = labels
    maps["ground truth"] = truth
    with atomic_path(output) as path:
        Image.fromarray(picture(read_rgb(record["file_name"]), maps, vocabulary.names, info)).save(path, "PNG")
    return output


def miou(labels: np.ndarray, truth: np.ndarray, count: int) -> float:
    """Mean IoU over the classes (below `count`) present in `truth`; other values of `truth` are ignored."""
    valid = truth < count
    ious = [
        ((labels == c) & (truth == c)).sum() / (((labels == c) | (truth == c)) & valid).sum()
        for c in np.unique(truth[valid])
    ]
    return float(np.mean(ious)) if ious else float("nan")


def picture(image: np.ndarray, maps: dict[str, np.ndarray], names: tuple[str, ...], info: DatasetInfo) -> np.ndarray:
    """uint8 RGB: rows of four panels, a legend of the classes that cover most."""
    colors = class_colors(info.colors, len(names))
    panels = [("image", enlarged(image, maps["ground truth"])[0])]
    for title, labels in maps.items():
        large, large_labels = enlarged(image, labels)
        panels.append((title, overlay(large, large_labels, colors)))
    rows = [side_by_side(panels[i : i + 4]) for i in range(0, len(panels), 4)]
    width = max(row.shape[1] for row in rows)
    present = present_classes(*maps.values(), count=len(names), least_share=0.01)
    rows.append(legend([(names[c], colors[c].tolist()) for c in present], width))
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded)
