"""From a dataset record (file names) to what a model takes: read, check and augment an image and its labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import Tensor

import twostage.data.registration  # noqa: F401
from twostage.data.augmentation import evaluation_augmentations, training_augmentations
from twostage.data.labels import read_label_map
from twostage.errors import UserError

Record = dict[str, Any]


def read_image(file_name: str, image_format: str = "RGB") -> np.ndarray:
    """An image as a uint8 array `[H, W, 3]`.

    Raises:
        UserError: the file is missing, broken or no image; names it.
    """
    try:
        return utils.read_image(file_name, image_format)
    # Pillow reports broken files as OSError (truncated, unknown format), SyntaxError (PNG chunks) or ValueError.
    except (OSError, SyntaxError, ValueError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"can't be read ({_one_line(error)})"
        raise UserError(f"image '{file_name}' {reason}; replace the file or remove it from the dataset") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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
        image_format: str = "RGB",
    ) -> None:
        self.augmentations = T.AugmentationList(list(augmentations))
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SemanticTrainingMapper:
        """The mapper of `cfg.DATASETS.TRAIN` (whose class lists are the same, see `loaders.training_records`)."""
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
        return cls(
            augmentations=training_augmentations(cfg, metadata.ignore_label),
            num_classes=len(metadata.stuff_classes),
            ignore_label=metadata.ignore_label,
            image_format=cfg.INPUT.FORMAT,
        )

    def __call__(self, record: Record) -> Record:
        """Reads and augments; draws from the global generators (see `randomness.seeded_sampling`).

        Raises:
            UserError: unreadable file, label map of another size than the image, label that is no class.
        """
        image = read_image(record["file_name"], self.image_format)
        labels = self._read_labels(record["sem_seg_file_name"], image)
        sample = T.AugInput(image, sem_seg=labels)
        self.augmentations(sample)
        sem_seg = torch.from_numpy(np.ascontiguousarray(sample.sem_seg).astype(np.int64))
        return {
            **record,
            "height": image.shape[0],
            "width": image.shape[1],
            "image": to_tensor(sample.image),
            "sem_seg": sem_seg,
            "instances": self._instances(sem_seg),
        }

    def _read_labels(self, file_name: str, image: np.ndarray) -> np.ndarray:
        largest = max(self.num_classes - 1, self.ignore_label)
        labels = read_label_map(file_name, largest=largest)
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
        # uint8 maps are resized by Pillow, which samples at pixel centres like the image; Detectron2 resizes other
        # types by torch, which knows floating point only. float64 holds every label exactly.
        return labels.astype(np.uint8 if largest <= 255 else np.float64)

    def _instances(self, sem_seg: Tensor) -> Instances:
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

    def __init__(self, *, augmentations: Sequence[T.Augmentation | T.Transform], image_format: str = "RGB") -> None:
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SemanticTestMapper:
        """The mapper of any test set."""
        return cls(augmentations=evaluation_augmentations(cfg), image_format=cfg.INPUT.FORMAT)

    def __call__(self, record: Record) -> Record:
        """Reads and resizes the image. Raises UserError for an unreadable file."""
        image = read_image(record["file_name"], self.image_format)
        sample = T.AugInput(image)
        self.augmentations(sample)
        return {**record, "height": image.shape[0], "width": image.shape[1], "image": to_tensor(sample.image)}
