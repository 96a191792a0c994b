"""Checks panoptic labels: every picture has them, of its size, with the segments that the json lists and the label maps'
classes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from twostage.data.catalogue import DatasetInfo
from twostage.data.labels import read_label_map
from twostage.data.preparation.jobs import parallel
from twostage.data.segment_maps import check_segments, read_segment_map
from twostage.errors import UserError

# Label maps and segments of the same data may differ (ADE20K's were drawn apart), but not by more than this share.
_ANOTHER_LIST = 0.2


@dataclasses.dataclass(frozen=True)
class PanopticFacts:
    """One picture's panoptic label.

    Attributes:
        things, stuff, crowds: number of segments.
        pixels, void: of the picture, and of those in no segment.
        compared, differing: pixels with a class in both label map and segments, and those where it is not the same.
        error: what is wrong with it.
    """

    things: int = 0
    stuff: int = 0
    crowds: int = 0
    pixels: int = 0
    void: int = 0
    compared: int = 0
    differing: int = 0
    error: str | None = None


def verify_panoptic(
    info: DatasetInfo, records: list[dict[str, Any]], *, workers: int
) -> tuple[list[str], list[str], str]:
    """Problems and broken files, a sentence each, and the figures in words; the panoptic labels must be there.

    Args:
        records: of the label maps.
    """
    missing: list[str] = []
    try:
        joined = info.panoptic_records(records, broken=missing)
    except UserError as error:
        return [str(error)], [], "-"
    things = frozenset(info.things or ())
    scanned = list(
        parallel(
            lambda record: _scan(record, things, info.ignore_label),
            joined,
            workers=workers,
            title=f"verify {info.benchmark} {info.split} panoptic",
        )
    )
    broken = [facts.error for facts in scanned if facts.error]
    total = {
        field.name: sum(getattr(facts, field.name) for facts in scanned)
        for field in dataclasses.fields(PanopticFacts)
        if field.name != "error"
    }
    differing = total["differing"] / max(total["compared"], 1)
    problems = []
    if differing > _ANOTHER_LIST:
        problems.append(
            f"the segments' classes are not those of the label maps in {100 * differing:.0f} % of the pixels: "
            f"'{info.panoptic.file if info.panoptic else ''}' has other category ids, or one of both was made for another list"
        )
    text = (
        f"{len(joined) - len(broken)} pictures, {total['things']} things, {total['stuff']} stuff segments, "
        f"{total['crowds']} crowds, {100 * total['void'] / max(total['pixels'], 1):.1f} % in none, "
        f"{100 * differing:.1f} % of the pixels with another class than in the label map"
    )
    return problems, [*missing, *broken], text


def _scan(record: dict[str, Any], things: frozenset[int], ignore: int) -> PanopticFacts:
    try:
        return _facts(record, things, ignore)
    except UserError as error:
        return PanopticFacts(error=str(error))


def _facts(record: dict[str, Any], things: frozenset[int], ignore: int) -> PanopticFacts:
    path, segments = record["pan_seg_file_name"], record["segments_info"]
    ids, labels = read_segment_map(path), read_label_map(record["sem_seg_file_name"])
    if ids.shape != labels.shape:
        raise UserError(f"panoptic label '{path}' is {ids.shape}, its label map {labels.shape} (height, width)")
    class_of = {int(segment["id"]): int(segment["category_id"]) for segment in segments}
    present, place = np.unique(ids, return_inverse=True)
    check_segments(present.tolist(), segments, path)
    classes = np.array([class_of.get(i, -1) for i in present.tolist()])[place].reshape(ids.shape)
    both = (classes >= 0) & (labels != ignore)
    countable = sum(class_of[int(segment["id"])] in things for segment in segments)
    return PanopticFacts(
        things=countable,
        stuff=len(segments) - countable,
        crowds=sum(bool(segment.get("iscrowd", 0)) for segment in segments),
        pixels=ids.size,
        void=int((ids == 0).sum()),
        compared=int(both.sum()),
        differing=int((classes != labels)[both].sum()),
    )
