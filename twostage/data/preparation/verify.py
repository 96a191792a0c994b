"""Checks a prepared split: pairing, sizes, counts, label values, class list; says what is wrong in words."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from typing import Any

from twostage.data.catalogue import DatasetInfo, benchmarks, class_list_hash
from twostage.data.catalogue.records import files_by_key
from twostage.data.preparation.jobs import parallel
from twostage.data.preparation.prepare import STAMP
from twostage.data.preparation.scanning import Totals, scan
from twostage.data.preparation.symptoms import absent_classes, symptoms
from twostage.data.preparation.verify_panoptic import verify_panoptic
from twostage.errors import UserError


@dataclasses.dataclass
class Verdict:
    """The outcome of `verify`.

    Attributes:
        problems: what is wrong, one sentence each; empty where all is well.
        notes: worth knowing, not wrong.
        figures: counts and shares.
        absent: classes that occur nowhere.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    absent: frozenset[int] = frozenset()

    def text(self) -> str:
        """All of it, for the terminal."""
        lines = [f"  {key}: {value}" for key, value in self.figures.items()]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  WRONG: {problem}" for problem in self.problems]
        return "\n".join(lines if self.problems else [*lines, "  ok"])


def verify(info: DatasetInfo, *, workers: int = 2, skip_broken: bool = False) -> Verdict:
    """Check the split `info`.

    Args:
        skip_broken: unreadable files and labels without a picture are notes, not problems.
    """
    verdict = Verdict()
    if info.ensure is not None:
        info.ensure()
    missing = [str(folder) for folder in (info.image_root, info.label_root) if not folder.is_dir()]
    if missing:
        verdict.problems.append(f"folder '{missing[0]}' is missing; {info.cure}")
        return verdict
    unpaired: list[str] = []
    try:
        records = info.records(broken=unpaired)
    except UserError as error:
        verdict.problems.append(str(error))
        return verdict
    totals = Totals(ignore_label=info.ignore_label)
    for facts in parallel(
        partial(scan, class_colors=info.colors),
        records,
        workers=workers,
        title=f"verify {info.benchmark} {info.split}".strip(),
    ):
        totals.add(facts)
    if skip_broken:
        verdict.notes += [*unpaired, *totals.errors]
        totals.errors = []
    elif unpaired:
        verdict.problems.append(f"{len(unpaired)} label maps have no picture, the first: {unpaired[0]}")
    _check_counts(info, len(records), verdict)
    _check_stamp(info, verdict)
    verdict.problems += symptoms(info, totals)
    verdict.absent = absent_classes(info, totals)
    _figures(info, totals, len(records), verdict)
    if info.panoptic is not None:
        _check_panoptic(info, records, verdict, workers=workers, skip_broken=skip_broken)
    return verdict


def _check_panoptic(
    info: DatasetInfo, records: list[dict[str, Any]], verdict: Verdict, *, workers: int, skip_broken: bool
) -> None:
    """Panoptic labels, where they are there."""
    assert info.panoptic is not None
    if info.panoptic.ensure is None and not info.panoptic.file.exists():
        verdict.notes.append(f"no panoptic labels ('{info.panoptic.file}'); they are needed for TEST.PANOPTIC only")
        return
    problems, broken, text = verify_panoptic(info, records, workers=workers)
    verdict.figures["panoptic labels"] = text
    verdict.problems += problems
    if skip_broken:
        verdict.notes += broken
    elif broken:
        verdict.problems.append(f"{len(broken)} panoptic labels are missing or broken, the first: {broken[0]}")


def _check_counts(info: DatasetInfo, found: int, verdict: Verdict) -> None:
    pictures = len(files_by_key(info.image_root, info.image_suffixes, info.prefix))
    if pictures > found:
        verdict.notes.append(f"{pictures - found} pictures in '{info.image_root}' have no label map and are not used")
    if info.count and found != info.count:
        verdict.notes.append(
            f"{found} labelled pictures, the published set has {info.count}; figures on a part of it can't be compared"
        )


def _check_stamp(info: DatasetInfo, verdict: Verdict) -> None:
    """The class list that `prepare` noted beside the labels; folders prepared by others have none."""
    stamp = info.label_root / STAMP
    if not stamp.is_file():
        return
    try:
        content = json.loads(stamp.read_text(encoding="utf-8"))
        noted = str(content["class_names_sha256"])
        benchmark = str(content["benchmark"])
    except (OSError, ValueError, KeyError, TypeError):
        verdict.problems.append(f"'{stamp}' is damaged; delete it and prepare again")
        return
    declared = benchmarks().get(info.benchmark)
    if declared is None:
        return
    split = declared.splits[info.split]
    expected = class_list_hash(declared.info(split, next(iter(split.registered))).class_names)
    if (benchmark, noted) != (info.benchmark, expected):
        verdict.problems.append(
            f"the labels were made for the class list {noted[:12]} of {benchmark}, this is {expected[:12]} of "
            f"{info.benchmark}; prepare them again"
        )


def _figures(info: DatasetInfo, totals: Totals, found: int, verdict: Verdict) -> None:
    present = [label for label in range(info.num_classes) if totals.pixels[label] and label != info.ignore_label]
    most = sorted(present, key=lambda label: -totals.pixels[label])[:5]
    verdict.figures = {
        "labelled pictures": found,
        "class list": f"{info.num_classes} classes, sha256 {class_list_hash(info.class_names)[:12]}",
        "classes that occur": len(present),
        "ignored pixels": f"{100 * totals.share(info.ignore_label):.1f} %",
        "most frequent": ", ".join(
            f"{info.class_names[label].split(',')[0].strip()} {100 * totals.share(label):.1f} %" for label in most
        ),
    }
