"""The protocol of training-free systems: eight test sets, each with the settings that its authors publish for it.

A system has one config per test set, `training_free/<system>_<test set>`; each runs in a process of its own, then one page
shows all figures with the settings that they were measured by.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from twostage.commands.evaluate import read_record, results_page
from twostage.commands.own_process import evaluate_apart, refuse_options
from twostage.config.finding import find_config
from twostage.config.loading import load_config
from twostage.errors import UserError
from twostage.evaluation.protocol import protocol_table
from twostage.files import check_writable, write_text
from twostage.systems.cards import all_cards

logger = logging.getLogger(__name__)

EIGHT = ("voc21", "context60", "coco_object", "voc20", "cityscapes", "context59", "ade20k", "coco_stuff")
# What configs of a system are called beside their test set: that of ViT-B has no suffix.
_SUFFIX = "_vitb"


def protocol_configs(config: str) -> dict[str, str]:
    """Test set -> name of the config that the system of `config` has for it.

    Args:
        config: name of a system's config, such as "naclip_vitb" or "proxyclip_dino".

    Raises:
        UserError: the system has none.
    """
    stem = Path(config).stem.removesuffix(_SUFFIX)
    known = {name for card in all_cards() for name in card.configs}
    found = {name: f"training_free/{stem}_{name}" for name in EIGHT if f"training_free/{stem}_{name}" in known}
    if not found:
        stems = {name.removeprefix("training_free/") for name in known if name.startswith("training_free/")}
        systems = sorted({s.removesuffix(f"_{name}") for s in stems for name in EIGHT if s.endswith(f"_{name}")})
        raise UserError(
            f"there is no protocol of eight test sets for {stem!r}; there is one for {', '.join(systems)}; for other systems "
            "name the datasets"
        )
    return found


def run_from_arguments(args: argparse.Namespace) -> None:
    """Evaluate on all test sets of the protocol, write `results.md` to OUTPUT_DIR and print it.

    Raises:
        UserError: no protocol, or test sets that failed; what the others gave is written all the same.
    """
    configs = protocol_configs(args.config_file)
    refuse_options("'eight', which evaluates what is there and names the rest", args, ("skip_missing",))
    folder = Path(load_config(args.config_file, args.opts).OUTPUT_DIR)
    check_writable(folder)
    for name in (name for name in EIGHT if name not in configs):
        logger.warning("%s: the system's authors publish no settings for it", name)
    failed = [name for name, config in configs.items() if not _evaluate(config, folder / name, args)]
    records: dict[str, dict[str, Any]] = {}
    for name in (name for name in configs if name not in failed):
        (test_set,) = load_config(find_config(configs[name])).DATASETS.TEST
        records[test_set] = read_record(folder / name, test_set)
    if records:
        text = eight_page(args.name or Path(args.config_file).stem, records)
        write_text(folder / "results.md", text)
        print(text, flush=True)
    if failed:
        raise UserError(f"these could not be evaluated: {', '.join(failed)}; their logs are under '{folder}'")


def eight_page(title: str, records: dict[str, dict[str, Any]]) -> str:
    """Markdown: figures beside published ones, their mean, and the settings of each row.

    Args:
        records: test set -> content of its results file.
    """
    figures = [record["figures"]["mIoU"] for record in records.values()]
    mean = f"Mean mIoU of {len(figures)} test sets: {sum(figures) / len(figures):.2f}."
    settings = protocol_table({name: record["protocol"] for name, record in records.items()})
    return f"{results_page(title, records)}\n{mean}\n\n## Settings\n\n{settings}\n"


def _evaluate(config: str, folder: Path, args: argparse.Namespace) -> bool:
    return evaluate_apart(config, find_config(config), folder, args, opts=args.opts)
