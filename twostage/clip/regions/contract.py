"""What CLIP is asked about the masks of an image, and what it answers; crops, pooling and biased attention all keep to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from twostage.clip.towers.vit import Tower


class Regions(NamedTuple):
    """`embeddings` `[..., Q, D]` of Q masks in CLIP's space, and `valid` bool `[..., Q]`, False where a mask is empty."""

    embeddings: Tensor
    valid: Tensor

    @classmethod
    def stack(cls, images: Sequence[Regions]) -> Regions:
        """Regions of single images as a batch `[B, Q, D]`, `[B, Q]`."""
        return cls(torch.stack([r.embeddings for r in images]), torch.stack([r.valid for r in images]))


class RegionClassifier(Protocol):
    """What CLIP sees in the masks of one image."""

    def __call__(self, visual: Tower, image: Tensor, probabilities: Tensor) -> Regions:
        """From a normalised image `[3, H, W]` and the probabilities of its masks `[Q, H, W]`: embeddings of unit length,
        zero where a mask is empty."""
        ...
