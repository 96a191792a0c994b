"""Training masks by segment: each object and each stuff class of a picture's panoptic labels (Mask2Former's COCO recipe)."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import Instances
from fvcore.transforms.transform import TransformList
from torch import Tensor

from twostage.data.mapper import Record, SemanticTrainingMapper
from twostage.data.segment_maps import check_segments, read_segment_map
from twostage.errors import UserError


class PanopticTrainingMapper(SemanticTrainingMapper):
    """`SemanticTrainingMapper` whose `instances` hold a mask per segment.

    Segments of crowds, and those of classes that the set does not have, are left out; one that the crop cut away altogether
    stays as an empty mask, as published (Mask2Former facts, ODISE facts: training data). A PNG and a json that tell of
    different segments are refused (`check_segments`).
    """

    def _targets(self, record: Record, sem_seg: Tensor, transforms: TransformList) -> Instances:
        listed = record["segments_info"]
        segments = [segment for segment in listed if segment["category_id"] is not None and not segment.get("iscrowd")]
        places = self._places(record, [segment["id"] for segment in segments])
        moved = torch.from_numpy(np.ascontiguousarray(transforms.apply_segmentation(places)).astype(np.int64))
        instances = Instances(tuple(sem_seg.shape))
        instances.gt_classes = torch.tensor([segment["category_id"] for segment in segments], dtype=torch.int64)
        instances.gt_masks = moved[None] == self._marks(len(segments))[:, None, None]
        return instances

    def _marks(self, count: int) -> Tensor:
        """The numbers that stand for the segments: 0, 1, ... without the ignore label, with which pictures are padded."""
        marks = torch.arange(count)
        return marks + (marks >= self.ignore_label)

    def _places(self, record: Record, ids: list[int]) -> np.ndarray:
        """Which of the segments `ids` each pixel belongs to, as `_marks` `[H, W]`; the ignore label for none."""
        path = record["pan_seg_file_name"]
        found = read_segment_map(path)
        if found.shape != (record["height"], record["width"]):
            raise UserError(
                f"panoptic label '{path}' is {found.shape[0]}x{found.shape[1]} (height x width), its image is "
                f"{record['height']}x{record['width']}; they must agree"
            )
        values, inverse = np.unique(found, return_inverse=True)
        check_segments(values.tolist(), record["segments_info"], path)
        mark_of = dict(zip(ids, self._marks(len(ids)).tolist(), strict=True))
        marks = np.array([mark_of.get(value, self.ignore_label) for value in values.tolist()])
        return self._resizable(marks[inverse].reshape(found.shape), largest=max(len(ids), self.ignore_label))
