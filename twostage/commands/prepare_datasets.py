"""Datasets: what there is, labels from the downloads, checks; see `tools/prepare_datasets.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from twostage.data.catalogue import Benchmark, DatasetInfo, benchmarks, find_benchmark
from twostage.data.catalogue.folders import folder_infos
from twostage.data.preparation.coco_json import prepare_coco
from twostage.data.preparation.colored import ORIGINALS, prepare_folder
from twostage.data.preparation.jobs import Report
from twostage.data.preparation.prepare import prepare
from twostage.data.preparation.recipes import download_of
from twostage.data.preparation.symptoms import never_labelled
from twostage.data.preparation.verify import verify
from twostage.data.toybox.dataset import ensure_panoptic, ensure_toybox
from twostage.data.toybox.splits import toybox_infos
from twostage.data.views import find_info
from twostage.errors import UserError
from twostage.machine import datasets_root, user_path

TOYBOX = "toybox"


def run_from_arguments(args: argparse.Namespace) -> None:
    """Run `list`, `prepare` or `verify`."""
    {"list": run_list, "prepare": run_prepare, "verify": run_verify}[args.command](args)


def run_list(args: argparse.Namespace) -> None:
    """Print the table of benchmarks, or the facts of one."""
    if args.name is not None:
        print_facts(find_benchmark(args.name))
        return
    rows = [[TOYBOX, "", 54, 8, "train, val", "writes itself on first use"]]
    for benchmark in benchmarks().values():
        own = [benchmark.info(split, next(iter(split.registered))) for split in benchmark.splits.values()]
        state = ", ".join(info.split for info in own if info.label_root.is_dir() and info.image_root.is_dir())
        rows.append(
            [
                benchmark.name,
                ", ".join(benchmark.published),
                benchmark.num_labels,
                benchmark.label_bits,
                ", ".join(f"{info.split} {info.count or ''}".strip() for info in own),
                state or "-",
            ]
        )
    print(tabulate(rows, headers=["name", "in papers", "classes", "bits", "splits (pictures)", "on this disk"]))
    print(f"\nfolder of all datasets: '{datasets_root()}'; `list NAME` shows registered names and class-name variants")


def print_facts(benchmark: Benchmark) -> None:
    """Everything about one benchmark that a user may want to type or download."""
    print(f"{benchmark.name}: {benchmark.title}\n\ndownload: {download_of(benchmark)}")
    for split in benchmark.splits.values():
        info = benchmark.info(split, next(iter(split.registered)))
        extra = [f"{split.zero_shot} (seen and unseen apart)"] if split.zero_shot else []
        print(f"\n{split.name}\n  registered as: {', '.join([*split.registered, *extra])}")
        print(f"  pictures: {info.image_root}\n  labels:   {info.label_root}")
        if info.panoptic is not None:
            print(f"  panoptic: {info.panoptic.folder}, {info.panoptic.file}")
    print("\nclass names (DATASETS.CLASS_NAMES)")
    for variant in benchmark.classes.variants:
        systems = ", ".join(variant.systems) or "-"
        print(f"  {variant.variant}: used by {systems}; {variant.source}")
    sizes = ", ".join(f"{system} {short}/{longest}" for system, (short, longest) in benchmark.test_sizes.items())
    print(f"\ntest sizes of the papers (short edge/longest edge): {sizes}")


def run_prepare(args: argparse.Namespace) -> None:
    """Make labels and print what was done."""
    if args.coco or args.pictures or args.segments:
        make_folder(Path(args.name), args)
        return
    if args.name == TOYBOX:
        for split in ("train", "val"):
            if not args.splits or split in args.splits:
                ensure_panoptic(datasets_root(), split)
        print(f"toybox is in '{ensure_toybox(datasets_root())}'")
        return
    if Path(args.name).is_dir():
        prepare_own_folder(Path(args.name), args)
        return
    benchmark = find_benchmark(args.name)
    source = user_path(args.source) if args.source else datasets_root()
    reports = prepare(benchmark, source, splits=args.splits, workers=args.workers, skip_broken=args.skip_broken)
    for split, report in reports.items():
        info = benchmark.info(benchmark.splits[split], next(iter(benchmark.splits[split].registered)))
        print(
            f"{benchmark.name} {split}: {report.written} label maps written, {report.kept} kept from before, "
            f"{report.left_out} left out because only ignored pixels remained, {len(report.broken)} broken"
        )
        for line in report.broken:
            print(f"  skipped: {line}")
        print(f"  labels: {info.label_root}")
        print_panoptic(info, report.panoptic, benchmark)
        if not info.image_root.is_dir():
            print(f"  pictures are still missing: put them into {info.image_root} ({download_of(benchmark)})")
    print(f"check it by: twostage verify {benchmark.name}")


def prepare_own_folder(folder: Path, args: argparse.Namespace) -> None:
    """Turn colour labels into indices and print what was done."""
    report = prepare_folder(folder, workers=args.workers, skip_broken=args.skip_broken)
    print(f"{folder}: {report.written} colour pictures became label maps, {report.kept} label maps kept")
    for line in report.broken:
        print(f"  left out: {line}")
    if report.written or report.broken:
        print(f"  the colour pictures are in {folder / ORIGINALS}")
    print(f"check it by: twostage verify {folder}")


def make_folder(folder: Path, args: argparse.Namespace) -> None:
    """Make a split of a dataset folder of a COCO json and print what was done."""
    if not (args.coco and args.pictures and len(args.splits) == 1):
        raise UserError(
            "a COCO json needs its pictures and the name of one split: --coco FILE --pictures DIR --splits train"
        )
    (split,) = args.splits
    if Path(split).name != split or split.startswith("."):
        raise UserError(f"--splits {split!r} is no name of a folder; give one like train or val")
    report = prepare_coco(
        folder,
        Path(args.coco),
        Path(args.pictures),
        split=split,
        segments=Path(args.segments) if args.segments else None,
        workers=args.workers,
        skip_broken=args.skip_broken,
    )
    print(
        f"{folder} {split}: {report.written} label maps written, {report.kept} kept from before, {report.left_out} pictures "
        f"without annotations left out, {len(report.broken)} broken"
    )
    for line in report.broken:
        print(f"  skipped: {line}")
    print(f"check it by: twostage verify {folder}")


def print_panoptic(info: DatasetInfo, report: Report | None, benchmark: Benchmark) -> None:
    """What became of a split's panoptic labels, where the benchmark has them."""
    if info.panoptic is None:
        return
    if report is not None:
        print(f"  panoptic labels: {report.written} written, {report.kept} kept, {len(report.broken)} broken")
        for line in report.broken:
            print(f"    skipped: {line}")
    if info.panoptic.file.exists():
        print(f"  panoptic labels: {info.panoptic.folder}, {info.panoptic.file.name}")
    else:
        print(f"  no panoptic labels: the originals are not in --source ({download_of(benchmark)})")


def run_verify(args: argparse.Namespace) -> None:
    """Check all splits on disk; exit code 1 where something is wrong."""
    infos = [info for info in infos_of(args.name) if not args.splits or info.split in args.splits]
    if not infos:
        raise UserError(f"'{args.name}' has no split {' or '.join(args.splits)}")
    verdicts = []
    for info in infos:
        verdicts.append(verify(info, workers=args.workers, skip_broken=args.skip_broken))
        print(f"{info.name}\n{verdicts[-1].text()}")
    wrong = any(verdict.problems for verdict in verdicts)
    # Of a small split a class may be missing, of all of them together it should not.
    if Path(args.name).is_dir() and len(infos) > 1 and not args.splits:
        absent = frozenset.intersection(*(verdict.absent for verdict in verdicts))
        for problem in never_labelled(infos[0], absent):
            print(f"{args.name}\n  WRONG: {problem}")
            wrong = True
    if wrong:
        sys.exit(1)


def infos_of(name: str) -> list[DatasetInfo]:
    """The splits that a command-line NAME means; of a benchmark without --splits those whose labels are on disk."""
    if name == TOYBOX:
        return toybox_infos()
    if Path(name).is_dir():
        return folder_infos([name])
    benchmark = find_benchmark(name)
    own = [benchmark.info(split, next(iter(split.registered))) for split in benchmark.splits.values()]
    if name not in (benchmark.name, *benchmark.published):
        known = find_info(name)
        own = [info for info in own if info.split == known.split] if known else own
    on_disk = [info for info in own if info.label_root.is_dir()]
    return on_disk or own
