"""From a dataset record (file names) to what a model takes: read, check and augment an image and its labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import Instances
from fvcore.transforms.transform import TransformList
from torch import Tensor

from twostage.data.augmentation import evaluation_augmentations, training_augmentations
from twostage.data.images import read_rgb
from twostage.data.labels import Color, read_label_map
from twostage.data.views import dataset_view
from twostage.errors import UserError

Record = dict[str, Any]


# The name by which programs that call our mapper's reader know it.
read_image = read_rgb


def to_tensor(image: np.ndarray) -> Tensor:
    """`[H, W, 3]` array to a contiguous `[3, H, W]` tensor of the same type."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


class SemanticTrainingMapper:
    """Maps a record to `image` uint8 `[3, H, W]`, `sem_seg` int64 `[H, W]` and `instances`: one boolean mask
    `[n, H, W]` and class per class present (`gt_masks`, `gt_classes`), ignored pixels in none of them."""

    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        num_classes: int,
        ignore_label: int,
        colors: Sequence[Color] | None = None,
        label_table: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            num_classes: of the values that label files hold.
            colors: of these, where they are known; see `read_label_map`.
            label_table: the class of each value, where that is not itself (`DatasetInfo.label_table`).
        """
        self.augmentations = T.AugmentationList(list(augmentations))
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.colors = colors
        self.label_table = None if label_table is None else np.asarray(label_table)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SemanticTrainingMapper:
        """The mapper of `cfg.DATASETS.TRAIN` (whose class lists are the same, see `loaders.training_records`)."""
        info = dataset_view(cfg, cfg.DATASETS.TRAIN[0])
        return cls(
            augmentations=training_augmentations(cfg, info.ignore_label),
            num_classes=len(info.label_table or info.class_names),
            ignore_label=info.ignore_label,
            colors=info.colors,
            label_table=info.label_table,
        )

    def __call__(self, record: Record) -> Record:
        """Reads and augments; draws from the global generators (see `randomness.seeded_sampling`).

        Raises:
            UserError: unreadable file, label map of another size than the image, label that is no class.
        """
        image = read_rgb(record["file_name"])
        labels = self._read_labels(record["sem_seg_file_name"], image)
        sample = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(sample)
        record = {**record, "height": image.shape[0], "width": image.shape[1]}
        sem_seg = torch.from_numpy(np.ascontiguousarray(sample.sem_seg).astype(np.int64))
        return {
            **record,
            "image": to_tensor(sample.image),
            "sem_seg": sem_seg,
            "instances": self._targets(record, sem_seg, transforms),
        }

    def _read_labels(self, file_name: str, image: np.ndarray) -> np.ndarray:
        largest = max(self.num_classes - 1, self.ignore_label)
        labels = read_label_map(file_name, largest=largest, colors=self.colors)
        if labels.shape != image.shape[:2]:
            raise UserError(
                f"label map '{file_name}' is {labels.shape[0]}x{labels.shape[1]} (height x width), its image is "
                f"{image.shape[0]}x{image.shape[1]}; they must agree"
            )
        wrong = labels[(labels >= self.num_classes) & (labels != self.ignore_label)]
        if wrong.size:
            raise UserError(
                f"label map '{file_name}' holds the value {int(wrong[0])}; allowed are the {self.num_classes} classes "
                f"0..{self.num_classes - 1} and {self.ignore_label} (ignore)"
            )
        if self.label_table is not None:
            labelled = labels != self.ignore_label
            labels[labelled] = self.label_table[labels[labelled]]
        return self._resizable(labels, largest=largest)

    @staticmethod
    def _resizable(labels: np.ndarray, *, largest: int) -> np.ndarray:
        """A label map, whose values are at most `largest`, as a type in which Detectron2's transforms take it.

        uint8 maps are resized by Pillow, which samples at pixel centres like the image; Detectron2 resizes other types by
        torch, which knows floating point only. float64 holds every label exactly.
        """
        return labels.astype(np.uint8 if largest <= 255 else np.float64)

    def _targets(self, record: Record, sem_seg: Tensor, transforms: TransformList) -> Instances:
        """The `instances` of a picture of which `sem_seg` is what `transforms` left."""
        classes = torch.unique(sem_seg)
        classes = classes[classes != self.ignore_label]
        instances = Instances(tuple(sem_seg.shape))
        instances.gt_classes = classes
        instances.gt_masks = sem_seg[None] == classes[:, None, None]
        return instances


class SemanticTestMapper:
    """Maps a record to `image` uint8 `[3, h, w]`, resized; `height` and `width` are the image's own size.

    The label file is not read (the evaluator does that); the record's other entries stay.
    """

    def __init__(self, *, augmentations: Sequence[T.Augmentation | T.Transform], with_original: bool = False) -> None:
        """
        Args:
            with_original: add `original`, the picture before it is resized.
        """
        self.augmentations = T.AugmentationList(list(augmentations))
        self.with_original = with_original

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SemanticTestMapper:
        """The mapper of any test set."""
        return cls(augmentations=evaluation_augmentations(cfg), with_original=cfg.INPUT.ORIGINAL)

    def __call__(self, record: Record) -> Record:
        """Reads and resizes the image. Raises UserError for an unreadable file."""
        image = read_rgb(record["file_name"])
        sample = T.AugInput(image)
        self.augmentations(sample)
        mapped = {**record, "height": image.shape[0], "width": image.shape[1], "image": to_tensor(sample.image)}
        return {**mapped, "original": to_tensor(image)} if self.with_original else mapped
