"""Many systems on the same datasets: each in a process of its own, then one table and one page with the same pictures by all.

The list is a yaml file, an entry a system:

    - name: FC-CLIP
      config: toybox/fcclip
      options: [MODEL.WEIGHTS, output/fcclip/model_final.pth]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from twostage.commands.evaluate import read_record
from twostage.commands.own_process import evaluate_apart, refuse_options
from twostage.config.finding import find_config
from twostage.config.loading import load_config
from twostage.data.views import own_folders
from twostage.errors import UserError, shown
from twostage.evaluation.selection import select_datasets
from twostage.files import atomic_path, check_writable, write_text
from twostage.visualization.examples import make_example, pick_images
from twostage.visualization.report import Report, SystemResult, webp_bytes, write_report
from twostage.visualization.sheet import contact_sheet
from twostage.words import read_text

_FIELDS = {"name", "config", "options"}
# A name is a folder's, which may have 255 bytes.
_LONGEST_NAME = 60
# Headings of the table and where a results file has the figures, in percent.
_FIGURES = {"seen": "mIoU-seen", "unseen": "mIoU-unseen", "harmonic mean": "mIoU-harmonic", "mIoU": "mIoU"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A system of the list: its name in the table, its config file, and overrides `[KEY, VALUE, ...]`."""

    name: str
    config: str
    options: Sequence[str] = ()


def run_from_arguments(args: argparse.Namespace) -> None:
    """Evaluate the list, write `table.md` and a page per dataset to OUTPUT_DIR and print the table.

    Raises:
        UserError: a list that can't be read, a config that is none, or systems that failed; what the others gave is written
            all the same.
    """
    entries = read_list(args.list)
    refuse_options("--list", args, ("name", "skip_missing"))
    # All of them before the first runs, which may take hours.
    cfg, *_ = [_config(entry, args.opts) for entry in entries]
    datasets = select_datasets(args.datasets or cfg.DATASETS.TEST, own=own_folders(cfg))
    folder = Path(cfg.OUTPUT_DIR)
    check_writable(folder)
    failed = [entry.name for entry in entries if not _evaluate(entry, datasets, folder, args)]
    done = [entry for entry in entries if entry.name not in failed]
    records = {
        dataset: {entry.name: read_record(folder / _folder(entry.name), dataset) for entry in done}
        for dataset in datasets
    }
    if done:
        text = "\n".join(f"## {dataset}\n\n{comparison(found)}\n" for dataset, found in records.items())
        # Before the pictures, so that nothing that goes wrong there takes it away.
        write_text(folder / "table.md", text)
        for dataset, found in records.items():
            path = folder / f"pictures-{dataset}.html"
            picked = pick_images(mean_images(found))
            write_page(path, dataset, found, picked)
            write_sheet(path.with_suffix(".webp"), found, picked)
            print(f"pictures: {path}, as one picture: {path.with_suffix('.webp')}", flush=True)
        print(text, flush=True)
    if failed:
        raise UserError(f"these could not be evaluated: {', '.join(failed)}; their logs are under '{folder}'")


def read_list(path: str) -> list[Entry]:
    """The systems that a yaml file lists.

    Raises:
        UserError: unreadable, empty, an entry that lacks name or config or has something else, or two whose results would lie
            in one folder.
    """
    try:
        content = yaml.safe_load(read_text(Path(path)))
    # yaml's own constructors trip over odd values: ValueError, TypeError and others.
    except Exception as error:
        raise UserError(f"list of systems '{path}' can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, list) or not content:
        raise UserError(
            f"'{path}' is no list of systems; each is an entry with 'name', 'config' and, if need be, 'options'"
        )
    entries = [_entry(item, f"entry {index} of '{path}'") for index, item in enumerate(content, start=1)]
    taken: dict[str, str] = {}
    for entry in entries:
        # Some file systems know no upper and lower case.
        other = taken.setdefault(_folder(entry.name).casefold(), entry.name)
        if other is not entry.name:
            raise UserError(
                f"'{path}' names {other!r} and {entry.name!r}, whose results would lie in one folder; rename one of them"
            )
    return entries


def _entry(item: Any, which: str) -> Entry:
    if not isinstance(item, Mapping) or not {"name", "config"} <= set(item) <= _FIELDS:
        raise UserError(f"{which} must have 'name' and 'config', may have 'options' and nothing else")
    name = " ".join(str(item["name"]).split())
    if not 0 < len(name) <= _LONGEST_NAME:
        raise UserError(f"{which} has a name of {len(name)} letters; it must have 1 to {_LONGEST_NAME}")
    options = item.get("options") or []
    if not isinstance(options, list) or any(isinstance(option, Mapping) for option in options):
        raise UserError(f"{which} has the options {shown(options)}; they must be a list [KEY, VALUE, KEY, VALUE, ...]")
    return Entry(name=name, config=find_config(str(item["config"])), options=[str(option) for option in options])


def _config(entry: Entry, overrides: Sequence[str]) -> CfgNode:
    try:
        return load_config(entry.config, [*entry.options, *overrides])
    except UserError as error:
        raise UserError(f"{entry.name}: {error}") from error


def _folder(name: str) -> str:
    """Of a system's results, by its name. Without dots: it is neither the folder above nor a file of the whole list."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


def _evaluate(entry: Entry, datasets: Sequence[str], folder: Path, args: argparse.Namespace) -> bool:
    words = [f"--name={entry.name}", "--datasets", *datasets]
    opts = [*entry.options, *args.opts, "TEST.SAVE_PREDICTIONS", "True"]
    return evaluate_apart(entry.name, entry.config, folder / _folder(entry.name), args, words=words, opts=opts)


def comparison(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table: mIoU in percent, seconds per picture, and peak memory in MiB (of the GPU where there was one).

    Args:
        records: system's name -> content of its results file.
    """
    shown = {
        head: key for head, key in _FIGURES.items() if any(r["figures"].get(key) is not None for r in records.values())
    }
    heads = ["", *shown, "s / picture", "peak MiB"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, record in records.items():
        figures = [record["figures"].get(key) for key in shown.values()]
        memory = record["memory"]["peak_gpu_mib"] or record["memory"]["peak_rss_mib"]
        cells = ["-" if value is None else f"{value:.1f}" for value in figures]
        cells += [f"{record['seconds_of_images'] / record['num_images']:.2f}", f"{memory:.0f}"]
        lines.append(f"| {name.replace('|', chr(92) + '|')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_page(path: Path, dataset: str, records: Mapping[str, Mapping[str, Any]], picked: Mapping[str, str]) -> None:
    """The same pictures by every system side by side; `picked` has their titles and file names."""
    first = next(iter(records.values()))
    examples = [make_example(title, name, records) for title, name in picked.items()]
    report = Report(
        title=f"{len(records)} systems on {dataset}",
        summary=f"Figures in percent; pictures by the mean mIoU of all systems. Best harmonic mean or mIoU: {_best(records)}.",
        systems=[SystemResult.from_record(name, record) for name, record in records.items()],
        class_names=first["class_names"],
        unseen=first["unseen_classes"],
        examples=examples,
        environment={name: _cost(record) for name, record in records.items()},
    )
    write_report(path, report)


def write_sheet(path: Path, records: Mapping[str, Mapping[str, Any]], picked: Mapping[str, str]) -> None:
    """The same without names and figures, as one picture."""
    if picked:
        sheet = contact_sheet([make_example(title, name, records, named=False) for title, name in picked.items()])
        with atomic_path(path) as temporary:
            temporary.write_bytes(webp_bytes(sheet))


def mean_images(records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`file_name` and mean `miou` over the systems of every image that all have; None where one has no figure."""
    tables = [{image["file_name"]: image["miou"] for image in record["images"]} for record in records.values()]
    means = []
    for name in tables[0]:
        values = [table.get(name) for table in tables]
        known = [value for value in values if value is not None]
        means.append({"file_name": name, "miou": sum(known) / len(known) if len(known) == len(values) else None})
    return means


def _best(records: Mapping[str, Mapping[str, Any]]) -> str:
    def value(name: str) -> float:
        figures = records[name]["figures"]
        return figures.get("mIoU-harmonic") or figures.get("mIoU") or 0.0

    return max(records, key=value)


def _cost(record: Mapping[str, Any]) -> str:
    seconds = record["seconds_of_images"] / record["num_images"]
    return f"{seconds:.2f} s a picture, {json.dumps(record['memory'])}"
