"""The systems as a table, read from their cards; the README's table is this one. Imports no torch."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from tabulate import tabulate

from twostage.errors import UserError
from twostage.files import write_text
from twostage.systems.card import Paradigm, SystemCard
from twostage.systems.cards import all_cards
from twostage.systems.not_hosted import NOT_HOSTED, NotHosted

README = Path(__file__).parents[2] / "README.md"
BEGIN = "<!-- systems: written by tools/systems.py --update-readme -->"
END = "<!-- end of systems -->"
_COLUMNS = ("system", "paradigm", "configs", "compared with the authors' code", "their licences: code, weights")
# More configs of one folder than this are shown as one pattern.
_LISTED = 3
_UNKNOWN = "not stated"


def table(cards: Iterable[SystemCard]) -> str:
    """A Markdown table, one row a card: two-stage, one-stage, training-free, in each as given."""
    ordered = sorted(cards, key=lambda card: get_args(Paradigm).index(card.paradigm))
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *(_row(card) for card in ordered)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows)


def _row(card: SystemCard) -> tuple[str, ...]:
    licences = ", ".join(dict.fromkeys(licence or _UNKNOWN for licence in (card.code_licence, card.weights_licence)))
    name = f"[{card.name}]({_handbook(card)})" if is_ours(card) else card.name
    return (f"{name} ({card.venue})", card.paradigm, _configs(card.configs), card.checked, licences)


def _handbook(card: SystemCard) -> str:
    return "/".join((*card.module.split(".")[:-1], "README.md"))


def _configs(names: Iterable[str]) -> str:
    """Names by folder; many of one folder as the pattern that they share: "`maskclip_plus/*`"."""
    folders: dict[Path, list[str]] = {}
    for name in names:
        folders.setdefault(Path(name).parent, []).append(name)
    cells: list[str] = []
    for group in folders.values():
        words = zip(*(re.split(r"(?<=[_/])", name) for name in group), strict=False)
        shared = "".join(same[0] for same in itertools.takewhile(lambda same: len(set(same)) == 1, words))
        cells += group if len(group) <= _LISTED else [f"{shared}*"]
    return ", ".join(f"`{cell}`" for cell in cells)


def is_ours(card: SystemCard) -> bool:
    """Whether the card's system stands in this repository, not in another installed package."""
    return card.module.startswith("twostage.systems.")


def terminal_table(cards: Iterable[SystemCard]) -> str:
    """The systems for a terminal, one block a card, with every config's name in full."""
    ordered = sorted(cards, key=lambda card: get_args(Paradigm).index(card.paradigm))
    rows = [
        (card.name, card.paradigm, card.venue, "\n".join(card.configs), card.weights_licence or _UNKNOWN)
        for card in ordered
    ]
    headers = ("system", "paradigm", "published", "--system", "licence of weights")
    return tabulate(rows, headers, tablefmt="simple_grid", maxcolwidths=[None, None, None, None, 28])


def not_hosted_table(systems: Iterable[NotHosted] = NOT_HOSTED) -> str:
    """A Markdown table of the systems that have no folder here; docs/choose_a_system.md holds it."""
    rows = [("system", "paper", "licence of the code", "published mIoU", "why not"), ("---",) * 5]
    for system in systems:
        code = f"[{system.code_licence or _UNKNOWN}]({system.code})" if system.code else "no code known"
        rows.append(
            (system.name, f"[{system.title}]({system.paper}), {system.venue}", code, _figures(system), system.reason)
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _figures(system: NotHosted) -> str:
    cells = []
    for figures in system.figures:
        numbers = ", ".join(f"{name} {value}" for name, value in figures.miou.items())
        origin = "; ".join(part for part in (figures.note, figures.source) if part)
        cells.append(f"{figures.system}: {numbers} ({origin})")
    return "; ".join(cells) or "-"


def describe(card: SystemCard) -> dict[str, Any]:
    """What a card says, for JSON: all fields but config keys and signatures, of which only the variants' names remain."""
    plain = ("name", "paradigm", "title", "venue", "paper", "code", "code_licence", "weights_licence")
    return {
        **{field: getattr(card, field) for field in (*plain, "meta_architecture", "module", "checked")},
        "configs": list(card.configs),
        "variants": sorted(card.signatures),
        "checkpoints": [dataclasses.asdict(checkpoint) for checkpoint in card.checkpoints],
        "figures": [dataclasses.asdict(figures) for figures in card.figures],
    }


def updated_readme(text: str) -> str:
    """`text` of a README with the table of our systems between its two markers.

    Raises:
        UserError: a marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"README.md lacks the line '{BEGIN}' or '{END}' behind it; the table goes between them")
    return f"{before}{BEGIN}\n{table(card for card in all_cards() if is_ours(card))}\n{END}{after}"


def run_from_arguments(args: argparse.Namespace) -> None:
    """Print the table or the cards, or write the README's table, as the arguments say."""
    if args.json:
        others = [{**dataclasses.asdict(system), "hosted": False} for system in NOT_HOSTED] if args.all else []
        print(json.dumps([describe(card) for card in all_cards()] + others, indent=2))
    elif args.update_readme:
        if not README.is_file():
            raise UserError(f"'{README}' does not exist; --update-readme is for a checkout of the repository")
        write_text(README, updated_readme(README.read_text(encoding="utf-8")))
    elif args.markdown:
        print(table(all_cards()))
    else:
        print(terminal_table(all_cards()))
        if args.all:
            rows = [(system.name, system.venue, system.paper, system.reason) for system in NOT_HOSTED]
            headers = ("not hosted", "published", "paper", "why not")
            print(tabulate(rows, headers, tablefmt="simple_grid", maxcolwidths=[None, None, 40, 40]))
