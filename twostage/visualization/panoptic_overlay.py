"""Panoptic segments over pictures: every thing in a shade of its own, stuff in its class colour.

Pictures are uint8 RGB `[H, W, 3]`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from twostage.visualization.overlay import draw_segmentation, enlarged
from twostage.visualization.palette import palette

# Shades of the things of one class go from this much darker to as much lighter.
_SPREAD = 0.35


def draw_panoptic(
    image: np.ndarray, ids: np.ndarray, segments: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> np.ndarray:
    """Segments over the picture with outlines, names ("cat 1", "cat 2", "grass") and a legend.

    Args:
        ids: `[H, W]`, ids of `segments`; 0 and unknown ones leave the picture as it is.
        segments: with `id`, `category_id` (index into `names`) and `isthing`.
    """
    if not segments:
        return enlarged(image, ids)[0].copy()
    place = np.full(int(ids.max(initial=max(s["id"] for s in segments))) + 1, -1)
    for index, segment in enumerate(segments):
        place[segment["id"]] = index
    return draw_segmentation(image, place[ids], segment_names(segments, names), segment_colors(segments, len(names)))


def segment_names(segments: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """A name for each segment; things of one class are numbered where there are several."""
    total = Counter(s["category_id"] for s in segments)
    seen: Counter[int] = Counter()
    result = []
    for segment in segments:
        category = segment["category_id"]
        seen[category] += 1
        numbered = segment["isthing"] and total[category] > 1
        result.append(f"{names[category]} {seen[category]}" if numbered else names[category])
    return result


def segment_colors(segments: Sequence[Mapping[str, Any]], num_classes: int) -> np.ndarray:
    """uint8 `[S, 3]`: the class colour, for things of one class from darker to lighter."""
    colors = palette(num_classes).astype(np.float64)
    total = Counter(s["category_id"] for s in segments)
    seen: Counter[int] = Counter()
    result = np.zeros((len(segments), 3))
    for index, segment in enumerate(segments):
        category = segment["category_id"]
        # -1 for the first, 1 for the last; 0 where there is but one.
        step = 2 * seen[category] / max(total[category] - 1, 1) - 1 if total[category] > 1 else 0.0
        seen[category] += 1
        goal = 255.0 if step > 0 else 0.0
        result[index] = colors[category] + abs(step) * _SPREAD * (goal - colors[category])
    return np.rint(result).astype(np.uint8)
