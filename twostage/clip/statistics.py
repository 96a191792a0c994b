"""Images normalised for CLIP, normalised anew for another backbone.

Legend: B images of H x W pixels, padded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn


class InputScale(nn.Module):
    """From the statistics that images were normalised with to those of another backbone; not part of checkpoints."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, *, mean: Sequence[float], std: Sequence[float], new_mean: Sequence[float], new_std: Sequence[float]
    ) -> None:
        """
        Args:
            mean, std: the images', RGB, on 0..255.
            new_mean, new_std: the backbone's.
        """
        super().__init__()
        shift = [(n - m) / s for m, s, n in zip(mean, std, new_mean, strict=True)]
        factor = [n / s for s, n in zip(std, new_std, strict=True)]
        for name, values in (("mean", shift), ("std", factor)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: ImageList) -> ImageList:
        """The images as the backbone wants them; padding is 0 again."""
        tensor = torch.zeros_like(images.tensor)
        for index, (height, width) in enumerate(images.image_sizes):
            tensor[index, :, :height, :width] = (images[index] - self.mean) / self.std
        return ImageList(tensor, images.image_sizes)
