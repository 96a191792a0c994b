"""Example pictures of an evaluation: which images to show, and how they look with one or more systems' predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twostage.data.images import read_rgb
from twostage.data.labels import read_label_map
from twostage.errors import UserError
from twostage.visualization.overlay import draw_names, enlarged, overlay, present_classes, side_by_side
from twostage.visualization.palette import palette
from twostage.visualization.report import Example

# Where in the images sorted from best to worst the shown ones stand.
RANKS = {"Best": 0.0, "Upper quartile": 0.25, "Median": 0.5, "Lower quartile": 0.75, "Worst": 1.0}
# Panels stand side by side, in the report as in one picture, and are looked at smaller than they are.
_SHOWN_AT = 0.7
# Classes below this share of every panel are not in the legend: stray pixels would fill it.
_LEAST_SHARE = 0.004


def pick_images(images: Sequence[Mapping[str, Any]], ranks: Mapping[str, float] = RANKS) -> dict[str, str]:
    """Title -> `file_name` of the best, median, worst ... image by its mIoU (`images` of a results file).

    Images without a figure are not shown, and none is shown twice where there are few.
    """
    known = sorted((i for i in images if i["miou"] is not None), key=lambda i: (-i["miou"], i["file_name"]))
    picked: dict[str, str] = {}
    for title, rank in ranks.items():
        if known:
            name = known[round(rank * (len(known) - 1))]["file_name"]
            if name not in picked.values():
                picked[title] = name
    return picked


def make_example(
    title: str, file_name: str, results: Mapping[str, Mapping[str, Any]], *, named: bool = True
) -> Example:
    """Panels image | each system's prediction | ground truth.

    Args:
        title: heading.
        file_name: an image in every system's results.
        results: system's name -> content of its results file; the evaluations must have saved their predictions.
        named: write the names of large regions on the panels.

    Raises:
        UserError: no saved predictions, or an unreadable picture.
    """
    first = next(iter(results.values()))
    names, unseen = first["class_names"], set(first["unseen_classes"])
    colors = class_colors(first.get("class_colors"), len(names))
    image = read_rgb(file_name)
    entries = {system: _entry(record, file_name) for system, record in results.items()}
    truth = read_label_map(next(iter(entries.values()))["sem_seg_file_name"])
    maps = {system: read_label_map(entry["prediction"]) for system, entry in entries.items()}
    panels = [("image", enlarged(image, truth)[0])]
    for panel_title, labels in [*maps.items(), ("ground truth", truth)]:
        picture, bigger = enlarged(image, labels)
        painted = overlay(picture, bigger, colors)
        if named:
            painted = draw_names(painted, bigger, names, shown_at=_SHOWN_AT)
        panels.append((panel_title, painted))
    figures = ", ".join(f"{system} {_percent(entry['miou'])}" for system, entry in entries.items())
    classes = present_classes(truth, *maps.values(), count=len(names), least_share=_LEAST_SHARE)
    return Example(
        title=title,
        caption=f"{Path(file_name).name}, mIoU of this image: {figures}",
        panels=panels,
        classes=[(names[c], tuple(int(v) for v in colors[c]), c in unseen) for c in classes],
    )


def example_picture(example: Example) -> np.ndarray:
    """The example as one uint8 RGB picture with a legend, in which unseen classes are marked."""
    entries = [(f"{name} (unseen)" if unseen else name, color) for name, color, unseen in example.classes]
    return side_by_side(example.panels, entries)


def class_colors(own: Sequence[Sequence[int]] | None, num_classes: int) -> np.ndarray:
    """uint8 `[C, 3]`: a dataset's own colours, the general palette where it has none (or none for names that compete)."""
    colors = palette(num_classes)
    if own:
        colors[: len(own)] = own
    return colors


def _entry(record: Mapping[str, Any], file_name: str) -> Mapping[str, Any]:
    found = next((image for image in record["images"] if image["file_name"] == file_name), None)
    if found is None or found["prediction"] is None:
        raise UserError(
            f"no saved prediction for '{file_name}' on '{record['dataset']}'; set TEST.SAVE_PREDICTIONS True"
        )
    return found


def _percent(value: float | None) -> str:
    return "without labels" if value is None else f"{value:.1f} %"
