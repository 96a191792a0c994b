"""Makes the labels of a benchmark from its originals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from twostage.data.catalogue import Benchmark, Split, class_list_hash
from twostage.data.preparation.jobs import Report, run_jobs
from twostage.data.preparation.originals import link_into
from twostage.data.preparation.panoptic_recipes import make_panoptic
from twostage.data.preparation.recipes import Recipe, download_of, recipe
from twostage.errors import UserError
from twostage.files import write_text
from twostage.machine import datasets_root

# Beside the label maps: which class list they hold.
STAMP = "prepared.json"


def prepare(
    benchmark: Benchmark,
    source: Path,
    *,
    splits: Sequence[str] = (),
    workers: int = 2,
    skip_broken: bool = False,
) -> dict[str, Report]:
    """Write the label maps of `splits` (default: all whose originals are in `source`) and link the pictures; panoptic
    labels, too, where the benchmark has them and `source` has their originals.

    Label maps that exist already are kept, so a stopped run goes on where it was; each file appears whole or not at all.

    Returns:
        What was done, per split.

    Raises:
        UserError: unknown split, nothing usable in `source`, or a broken original (with `skip_broken` it is listed).
    """
    unknown = [name for name in splits if name not in benchmark.splits]
    if unknown:
        raise UserError(f"{benchmark.name} has no split '{unknown[0]}'; it has: {', '.join(benchmark.splits)}")
    if not source.is_dir():
        raise UserError(f"--source '{source}' is no folder; unpack there: {download_of(benchmark)}")
    found = {name: recipe(benchmark, benchmark.splits[name], source) for name in splits or benchmark.splits}
    missing = [name for name, entry in found.items() if entry is None or not entry.jobs]
    if missing and (splits or len(missing) == len(found)):
        raise UserError(
            f"'{source}' holds no originals of {benchmark.name} ({', '.join(missing)}); --source is the folder with the "
            f"unpacked {download_of(benchmark)}"
        )
    return {
        name: _prepare_split(benchmark, benchmark.splits[name], entry, workers=workers, skip_broken=skip_broken)
        for name, entry in found.items()
        if entry is not None and entry.jobs
    }


def _prepare_split(benchmark: Benchmark, split: Split, made: Recipe, *, workers: int, skip_broken: bool) -> Report:
    info = benchmark.info(split, next(iter(split.registered)))
    for found, target in ((made.pictures, split.images[0]), *made.links):
        link_into(found, datasets_root() / target)
    title = f"{benchmark.name} {split.name}"
    report = run_jobs(made.jobs, made.convert, workers=workers, title=title, skip_broken=skip_broken)
    stamp = {
        "benchmark": benchmark.name,
        "split": split.name,
        "class_names_sha256": class_list_hash(info.class_names),
        "labels": report.written + report.kept,
        "left_out": report.left_out,
        "broken": report.broken,
    }
    write_text(datasets_root() / split.labels[0] / STAMP, json.dumps(stamp, indent=1) + "\n")
    if made.panoptic is not None:
        report.panoptic = make_panoptic(benchmark, info, made.panoptic, workers=workers, skip_broken=skip_broken)
    return report
