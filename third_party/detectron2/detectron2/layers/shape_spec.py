"""Shape of a feature map."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """What is known about a feature map before it exists; None where unknown."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    # Pixels of the input image per pixel of the map.
    stride: int | None = None
