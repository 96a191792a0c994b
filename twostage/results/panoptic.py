"""Segments that don't overlap: objects of countable names, and one per other name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from twostage.data.segment_maps import segment_map_to_rgb
from twostage.files import write_text
from twostage.results.coco import Part, coco_json
from twostage.results.notebook import png_bytes
from twostage.results.saving import save_picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class PanopticSegmentation:
    """Which object or stuff each pixel belongs to.

    Attributes:
        ids: int32 `[H, W]`, 0 where there is no segment.
        segments: dicts with `id`, `category_id` (index into `names`) and `isthing`.
        names: the vocabulary.
        image: uint8 RGB `[H, W, 3]`.
    """

    ids: np.ndarray
    segments: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    image: np.ndarray

    def __repr__(self) -> str:
        """In a line: the arrays would fill pages."""
        height, width = self.ids.shape
        return f"<PanopticSegmentation of {width} x {height} pixels: {len(self.segments)} segments of {len(self.names)} names>"

    def overlay(self) -> np.ndarray:
        """uint8 RGB picture with the segments painted over it and a legend."""
        from twostage.visualization.panoptic_overlay import draw_panoptic

        return draw_panoptic(self.image, self.ids, self.segments, self.names)

    def to_coco(self, *, image_id: int = 1, file_name: str = "") -> dict[str, Any]:
        """COCO's json with an annotation per segment, in the order of `segments`; see `twostage.results.coco`."""
        parts = (Part(segment["category_id"], self.ids == segment["id"]) for segment in self.segments)
        return coco_json(parts, self.names, self.ids.shape[:2], image_id=image_id, file_name=file_name)

    def save(self, folder: str | Path, stem: str) -> list[Path]:
        """Write `<stem>_panoptic.png` (picture) and `<stem>_segments.png` (ids as R + 256 G + 65536 B), with the list of
        segments in `<stem>_segments.json`; returns their paths."""
        folder = Path(folder)
        listed = [{**s, "name": self.names[s["category_id"]]} for s in self.segments]
        write_text(folder / f"{stem}_segments.json", json.dumps(listed, indent=1), durable=False)
        pictures = {
            f"{stem}_panoptic.png": Image.fromarray(self.overlay()),
            f"{stem}_segments.png": Image.fromarray(segment_map_to_rgb(self.ids)),
        }
        return [*(save_picture(p, folder / n) for n, p in pictures.items()), folder / f"{stem}_segments.json"]

    def _repr_png_(self) -> bytes:
        return png_bytes(self.overlay())
