"""Binary masks of instances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectron2.structures.boxes import Boxes


class BitMasks:
    """Attributes:
    tensor: bool `[N, H, W]`.
    image_size: torch.Size of (H, W).
    """

    def __init__(self, tensor: Tensor | np.ndarray) -> None:
        tensor = torch.as_tensor(tensor).to(torch.bool)
        assert tensor.dim() == 3, f"masks are [N, H, W], not {tuple(tensor.shape)}"
        self.tensor = tensor
        self.image_size = tensor.shape[1:]

    @classmethod
    def from_polygon_masks(cls, polygon_masks: Sequence[list[np.ndarray]], height: int, width: int) -> BitMasks:
        """Masks from the polygons of each instance."""
        masks = [polygons_to_bitmask(polygons, height, width) for polygons in polygon_masks]
        return cls(np.stack(masks) if masks else torch.empty(0, height, width))

    def nonempty(self) -> Tensor:
        """bool `[N]`: has any pixel."""
        return self.tensor.flatten(1).any(dim=1)

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes on the CPU, with exclusive right and bottom edges; zeros for empty masks."""
        boxes = torch.zeros(len(self), 4)
        columns, rows = self.tensor.any(dim=1).cpu(), self.tensor.any(dim=2).cpu()
        for i in range(len(self)):
            x, y = columns[i].nonzero().flatten(), rows[i].nonzero().flatten()
            if len(x) > 0:
                boxes[i] = torch.stack([x[0], y[0], x[-1] + 1, y[-1] + 1]).float()
        return Boxes(boxes)

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        """A copy with `Tensor.to` applied."""
        return BitMasks(self.tensor.to(*args, **kwargs))

    @staticmethod
    def cat(bitmasks_list: Sequence[BitMasks]) -> BitMasks:
        """All masks of all; their sizes must agree."""
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list]))

    def __getitem__(self, item: int | slice | Tensor) -> BitMasks:
        return BitMasks(self.tensor[item].reshape(-1, *self.image_size))

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensor)

    def __len__(self) -> int:
        return len(self.tensor)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"BitMasks(num_instances={len(self)}, height={height}, width={width})"


def polygons_to_bitmask(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Union of polygons, each a flat array x0, y0, x1, y1, ..., as a bool array `[height, width]`."""
    if len(polygons) == 0:
        return np.zeros((height, width), dtype=bool)
    from pycocotools import mask as coco_mask

    runs = coco_mask.frPyObjects([np.asarray(p).ravel().tolist() for p in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)
