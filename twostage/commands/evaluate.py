"""One system on many datasets: the model is loaded once, each vocabulary embedded once, and the results stand in one table
next to the published figures."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from twostage.commands.launch import launch
from twostage.commands.setup import set_up
from twostage.commands.train import evaluate
from twostage.config import default_config, load_config
from twostage.data.loaders import check_dataset
from twostage.data.views import evaluated_view, own_folders
from twostage.errors import UserError
from twostage.evaluation.figures import PublishedFigures
from twostage.evaluation.other_systems import OTHER_SYSTEMS
from twostage.evaluation.published import comparison_table, notes, panoptic_comparison
from twostage.evaluation.results import tables
from twostage.evaluation.selection import published_name, select_datasets
from twostage.files import check_writable, write_text
from twostage.machine import settle_machine
from twostage.systems.cards import all_cards
from twostage.visualization.analysis import write_evaluation_report
from twostage.weights.find import check_named

logger = logging.getLogger(__name__)


def run_from_arguments(args: argparse.Namespace) -> None:
    """Evaluate what the arguments name, in as many processes as asked for.

    Raises:
        UserError: anything wrong in config, datasets, checkpoint or output folder.
    """
    args.datasets, behind = datasets_and_overrides(args.datasets)
    args.opts = behind + args.opts
    if args.list:
        # Imported only now, since it runs this command for each of its systems.
        from twostage.commands.evaluate_list import run_from_arguments as run_list

        run_list(args)
        return
    if args.datasets == ["eight"]:
        # For the same reason.
        from twostage.commands.evaluate_eight import run_from_arguments as run_eight

        run_eight(args)
        return
    cfg = benchmark_config(args)
    launch(evaluate_benchmarks, processes=args.num_gpus, device=cfg.MODEL.DEVICE, args=(cfg, args))


def datasets_and_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands behind --datasets, parted where a key begins: it is upper case with a dot, as no dataset's name is, or in
    no group.

    >>> datasets_and_overrides(["A-150", "five", "OUTPUT_DIR", "out"])
    (['A-150', 'five'], ['OUTPUT_DIR', 'out'])
    """
    ungrouped = {key for key in default_config() if key.isupper()}
    keys = (i for i, word in enumerate(words) if word in ungrouped or (word.isupper() and "." in word))
    first = next(keys, len(words))
    return words[:first], words[first:]


def benchmark_config(args: argparse.Namespace) -> CfgNode:
    """The config of `tools/evaluate.py`'s arguments, with DATASETS.TEST as chosen; frozen and checked.

    Raises:
        UserError: anything wrong in config, datasets or output folder.
    """
    cfg = load_config(args.config_file, args.opts)
    check_named(cfg.MODEL.WEIGHTS)
    cfg.DATASETS.TEST = tuple(select_datasets(args.datasets or cfg.DATASETS.TEST, own=own_folders(cfg)))
    if args.skip_missing:
        cfg.DATASETS.TEST = _present(cfg)
    for name in cfg.DATASETS.TEST:
        check_dataset(evaluated_view(cfg, name), panoptic=cfg.TEST.PANOPTIC)
    if args.skip_broken:
        cfg.TEST.SKIP_BROKEN = True
    if args.report:
        cfg.TEST.SAVE_PREDICTIONS = cfg.TEST.ORACLES = True
    settle_machine(cfg)
    cfg.freeze()
    check_writable(cfg.OUTPUT_DIR)
    return cfg


def _present(cfg: CfgNode) -> tuple[str, ...]:
    """The test sets whose files are there; the others are named in the log."""
    found = []
    for name in cfg.DATASETS.TEST:
        try:
            check_dataset(evaluated_view(cfg, name), panoptic=cfg.TEST.PANOPTIC)
        except UserError as error:
            logger.warning("left out: %s", error)
        else:
            found.append(name)
    if not found:
        names = ", ".join(cfg.DATASETS.TEST)
        raise UserError(f"none of {names} is on this machine; `twostage datasets` helps")
    return tuple(found)


def evaluate_benchmarks(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Evaluate MODEL.WEIGHTS on DATASETS.TEST and write tables (and reports) to OUTPUT_DIR; in this process.

    Args:
        args: of `tools/evaluate.py`: `resume`, `report`, `name`.
    """
    set_up(cfg, args)
    evaluate(cfg, resume=args.resume)
    if not comm.is_main_process():
        return
    folder = Path(cfg.OUTPUT_DIR)
    records = {name: read_record(folder, name) for name in cfg.DATASETS.TEST}
    title = args.name or cfg.MODEL.META_ARCHITECTURE
    text = results_page(title, records)
    write_text(folder / "results.md", text)
    print(text, flush=True)
    if args.report:
        for name, record in records.items():
            path = folder / f"report-{name}.html"
            write_evaluation_report(path, record, name=title)
            print(f"report: {path}", flush=True)


def read_record(folder: Path, name: str) -> dict[str, Any]:
    """The results file that an evaluation on `name` wrote under OUTPUT_DIR `folder`."""
    return json.loads((folder / "inference" / f"results-{name}.json").read_text(encoding="utf-8"))


def published_figures() -> list[PublishedFigures]:
    """What is printed about the systems that have a card, and about others."""
    return [figures for card in all_cards() for figures in card.figures] + list(OTHER_SYSTEMS)


def results_page(title: str, records: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a table of all figures, and where papers know the benchmarks, mIoU and PQ beside theirs.

    Args:
        title: name of the system.
        records: dataset -> content of its results file.
    """
    parts = [f"# {title}", tables([(name, record["figures"]) for name, record in records.items()])]
    known = {published_name(name): record for name, record in records.items() if published_name(name)}
    published = published_figures()
    table = comparison_table(title, known, published)
    if table:
        parts += ["## Beside published figures", table]
        parts.append(
            "mIoU in percent. gt-present: mean over the classes in the labels; pred-or-gt: the same sum divided by the number "
            "of classes in labels or predictions. Compare like with like."
        )
        parts += [f"- {note}" for note in notes(list(known), published)]
    table = panoptic_comparison(title, known, published)
    if table:
        parts += ["## Panoptic quality beside published figures", table, "PQ in percent, all classes."]
    return "\n\n".join(parts) + "\n"
