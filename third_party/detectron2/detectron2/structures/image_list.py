"""Images of several sizes as one padded tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class ImageList:
    """Attributes:
    tensor: `[N, H, W]` or `[N, C, ..., H, W]`, padded at the right and the bottom.
    image_sizes: (height, width) of each image before padding.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    @staticmethod
    def from_tensors(
        tensors: Sequence[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> ImageList:
        """Pad `[..., H_i, W_i]` tensors to the largest height and width and stack them.

        Args:
            size_divisibility: height and width are rounded up to a multiple of this (0 or 1: not).
            padding_constraints: may hold `size_divisibility` (takes precedence) and `square_size`: both sides
                are then that long before rounding; no image may be larger.

        Raises:
            AssertionError: no tensors, or their leading dimensions differ.
        """
        assert len(tensors) > 0, "from_tensors needs at least one tensor"
        leading = tensors[0].shape[:-2]
        assert all(t.shape[:-2] == leading for t in tensors), "all tensors must have the same leading dimensions"
        constraints = padding_constraints or {}
        multiple = max(constraints.get("size_divisibility", size_divisibility), 1)
        square = constraints.get("square_size", 0)
        sizes = [(int(t.shape[-2]), int(t.shape[-1])) for t in tensors]
        height, width = (
            -(-(square if square > 0 else max(side)) // multiple) * multiple for side in zip(*sizes, strict=True)
        )
        padded = [
            F.pad(t, (0, width - w, 0, height - h), value=pad_value) for t, (h, w) in zip(tensors, sizes, strict=True)
        ]
        return ImageList(torch.stack(padded), sizes)

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int | slice) -> Tensor:
        """The image without its padding; for a slice, images with the padding of the first one removed."""
        height, width = self.image_sizes[idx] if isinstance(idx, int) else self.image_sizes[idx][0]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """A copy with `Tensor.to` applied."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device
