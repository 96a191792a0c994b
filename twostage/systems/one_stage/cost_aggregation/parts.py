"""What cost-aggregation systems ask of parts that come in several kinds; `building.py` makes what the config names.

Legend: B images, V views, T classes, P templates, D embedding size, C channels, h x w grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from detectron2.structures import ImageList
from torch import Tensor

from twostage.clip.statistics import Pictures

# Makes squares `[V, 3, side, side]` of normalised images and a side.
Cut = Callable[[ImageList, int], Tensor]
# Which classes each class may read, bool `[..., T, T]`, by text embeddings `[..., T, D]`.
Neighbours = Callable[[Tensor], Tensor]


class DenseBackbone(Protocol):
    """Another network that looks at the pictures; the width of its maps is C."""

    width: int

    def __call__(self, images: Pictures, cut: Cut) -> list[Tensor]:
        """Maps `[V, C, h, w]` of two earlier layers, then of the last one."""
        ...


class SpatialLayer(Protocol):
    """Aggregation over the pixels of each class map."""

    def norm_guidance(self, guidance: Tensor | None) -> Any:
        """From `[B, G, h, w]` what `__call__` takes, once for all classes."""
        ...

    def __call__(self, x: Tensor, guidance: Any = None) -> Tensor:
        """`[B, T, C, h, w]` -> the same shape."""
        ...


class Correlation(Protocol):
    """What an image's pixels have in common, looked at before the cost map."""

    def __call__(self, embeddings: Tensor, guide: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Embeddings `[B, D, h, w]` to take in place of the given ones, and others whose costs come beside (`cost_map`)."""
        ...


class PresenceFilter(Protocol):
    """Tells which classes an image shows."""

    def losses(self, embeddings: Tensor, text: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Of embeddings `[B, D, h, w]` and text `[T, P, D]`, for label maps `[B, H, W]`."""
        ...

    def kept(self, embeddings: Tensor, text: Tensor) -> Tensor | None:
        """Classes to go on with, ascending int64 `[K]`; None for all."""
        ...


class PassLosses(Protocol):
    """Losses that layers report while they run."""

    def take(self) -> dict[str, Tensor]:
        """Those of the pass just made."""
        ...
