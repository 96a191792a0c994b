"""Roboflow's supervision: results as `Detections`, which its annotators, trackers and metrics take.

detections = to_supervision(result)
detections.data["class_name"]  # the names in the picture, largest first
"""

from __future__ import annotations

from typing import Any

import numpy as np

from twostage.errors import UserError
from twostage.results.mean_scores import mean_scores
from twostage.results.panoptic import PanopticSegmentation
from twostage.results.segmentation import Segmentation


def to_supervision(result: Segmentation | PanopticSegmentation) -> Any:
    """A `supervision.Detections`: one entry per name in the picture with its mean score, or one per panoptic segment.

    Raises:
        UserError: supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise UserError("to_supervision needs supervision: pip install supervision") from error
    height, width = (result.ids if isinstance(result, PanopticSegmentation) else result.labels).shape
    if isinstance(result, PanopticSegmentation):
        masks = [result.ids == segment["id"] for segment in result.segments]
        classes = [segment["category_id"] for segment in result.segments]
        confidence = None
    else:
        classes = [result.names.index(name) for name in result.areas()]
        masks = [result.mask(result.names[index]) for index in classes]
        scores = mean_scores(result, classes)
        confidence = np.array([scores[index] for index in classes], np.float32)
    stacked = np.stack(masks) if masks else np.zeros((0, height, width), bool)
    return supervision.Detections(
        xyxy=supervision.mask_to_xyxy(stacked).astype(np.float32) if masks else np.zeros((0, 4), np.float32),
        mask=stacked,
        confidence=confidence,
        class_id=np.array(classes, int),
        data={"class_name": np.array([result.names[index] for index in classes])},
    )
