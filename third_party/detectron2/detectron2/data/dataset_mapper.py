"""From a dataset's record to what a model takes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

__all__ = ["DatasetMapper"]


class DatasetMapper:
    """Reads and augments an image and its labels.

    Result: the record with `image` uint8 `[C, H, W]`; `sem_seg` int64 `[H, W]` where it names a label map; `instances`
    in training where it has annotations. Its `height` and `width` stay those of the file.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        instance_mask_format: str = "bitmask",
        recompute_boxes: bool = False,
    ) -> None:
        """
        Args:
            image_format: as in `detection_utils.read_image`.
            use_instance_mask: keep the annotations' segmentations.
            recompute_boxes: take boxes from the augmented masks: after crops they are tighter.
        """
        assert use_instance_mask or not recompute_boxes, "boxes can be recomputed from masks only"
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        logging.getLogger(__name__).info(
            "[DatasetMapper] Augmentations used in %s: %s", "training" if is_train else "inference", augmentations
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        augmentations: list[Any] = utils.build_augmentation(cfg, is_train)
        crop = cfg.INPUT.CROP.ENABLED and is_train
        if crop:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "recompute_boxes": bool(crop and cfg.MODEL.MASK_ON),
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map a record; the record itself is not changed."""
        record = copy.deepcopy(dataset_dict)
        image = utils.read_image(record["file_name"], format=self.image_format)
        utils.check_image_size(record, image)
        labels = None
        if "sem_seg_file_name" in record:
            labels = utils.read_image(record.pop("sem_seg_file_name"), "L").squeeze(2)

        inputs = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(inputs)
        record["image"] = torch.as_tensor(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        if inputs.sem_seg is not None:
            record["sem_seg"] = torch.as_tensor(inputs.sem_seg.astype("long"))

        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            record["instances"] = self._instances(record.pop("annotations"), transforms, inputs.image.shape[:2])
        return record

    def _instances(self, annotations: list[dict[str, Any]], transforms: T.Transform, size: tuple[int, int]) -> Any:
        kept = [a for a in annotations if not a.get("iscrowd", 0)]
        for annotation in kept:
            if not self.use_instance_mask:
                annotation.pop("segmentation", None)
            utils.transform_instance_annotations(annotation, transforms, size)
        instances = utils.annotations_to_instances(kept, size, mask_format=self.instance_mask_format)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)
