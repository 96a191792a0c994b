"""Axis-parallel boxes."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, unique
from typing import Any

import numpy as np
import torch
from torch import Tensor


@unique
class BoxMode(IntEnum):
    """How four numbers describe a box."""

    XYXY_ABS = 0
    XYWH_ABS = 1

    @staticmethod
    def convert(box: Any, from_mode: BoxMode, to_mode: BoxMode) -> Any:
        """A box (list or tuple of 4) or boxes `[N, 4]` (array or tensor) in another mode; the type is kept."""
        if from_mode == to_mode:
            return box
        boxes = torch.as_tensor(np.asarray(box) if isinstance(box, list | tuple) else box).clone()
        sign = 1 if to_mode == BoxMode.XYXY_ABS else -1
        boxes[..., 2:] += sign * boxes[..., :2]
        if isinstance(box, list | tuple):
            return type(box)(boxes.tolist())
        return boxes.numpy() if isinstance(box, np.ndarray) else boxes


class Boxes:
    """Attributes:
    tensor: float `[N, 4]`: x0, y0, x1, y1.
    """

    def __init__(self, tensor: Any) -> None:
        tensor = torch.as_tensor(tensor)
        self.tensor = tensor.to(torch.float32).reshape(-1, 4) if tensor.numel() == 0 else tensor.to(torch.float32)
        assert self.tensor.dim() == 2 and self.tensor.shape[1] == 4, f"boxes are [N, 4], not {tuple(tensor.shape)}"

    def area(self) -> Tensor:
        """`[N]`."""
        return (self.tensor[:, 2] - self.tensor[:, 0]) * (self.tensor[:, 3] - self.tensor[:, 1])

    def clip(self, box_size: tuple[int, int]) -> None:
        """Cut the boxes, in place, to an image of (height, width)."""
        assert torch.isfinite(self.tensor).all(), "boxes hold infinite or NaN coordinates"
        height, width = box_size
        limits = self.tensor.new_tensor([width, height, width, height])
        self.tensor = torch.minimum(self.tensor.clamp(min=0), limits)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """bool `[N]`: wider and higher than the threshold."""
        return ((self.tensor[:, 2:] - self.tensor[:, :2]) > threshold).all(dim=1)

    def get_centers(self) -> Tensor:
        """`[N, 2]`: x, y."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates, in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    def clone(self) -> Boxes:
        """A copy."""
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device | str) -> Boxes:
        """A copy on another device."""
        return Boxes(self.tensor.to(device=device))

    @classmethod
    def cat(cls, boxes_list: Sequence[Boxes]) -> Boxes:
        """All boxes of all."""
        return cls(torch.cat([boxes.tensor for boxes in boxes_list])) if boxes_list else cls(torch.empty(0, 4))

    def __getitem__(self, item: int | slice | Tensor) -> Boxes:
        return Boxes(self.tensor[item].reshape(-1, 4))

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Any:
        return iter(self.tensor)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection over union `[N, M]`; 0 where boxes do not overlap."""
    top_left = torch.maximum(boxes1.tensor[:, None, :2], boxes2.tensor[None, :, :2])
    bottom_right = torch.minimum(boxes1.tensor[:, None, 2:], boxes2.tensor[None, :, 2:])
    overlap = (bottom_right - top_left).clamp(min=0).prod(dim=2)
    union = boxes1.area()[:, None] + boxes2.area()[None, :] - overlap
    return torch.where(overlap > 0, overlap / union, torch.zeros_like(overlap))
