"""Published weights: what there is, getting it, checking it; see `tools/weights.py`. Imports no torch."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tabulate import tabulate

from twostage.errors import UserError, near_names
from twostage.systems.card import OfficialCheckpoint, SystemCard
from twostage.systems.cards import all_cards
from twostage.weights.address import Address, is_address, parse_address
from twostage.weights.names import address_of, find_published, official_weights, published
from twostage.weights.record import check, record_file
from twostage.weights.store import fetch, place_of, store_folder

_MEGABYTE = 1e6


def run_from_arguments(args: argparse.Namespace) -> None:
    """Run `list`, `get` or `verify`."""
    if args.weights_command == "list":
        show(args.system, as_json=args.json)
    elif args.weights_command == "get":
        for name in args.names:
            print(fetch(address_named(name)))
    else:
        verify(args.names)


def show(system: str, *, as_json: bool) -> None:
    """Print the published checkpoints, of all systems or of the one with this name or config.

    Raises:
        UserError: there is no such system.
    """
    chosen = [found for found in published() if not system or system in (found[0].name, *found[0].configs)]
    if not chosen and system not in {card.name for card in all_cards()}:
        names = [card.name for card in all_cards()]
        raise UserError(f"no system {system!r}{near_names(system, names)}; there are: {', '.join(names)}")
    if as_json:
        print(json.dumps([describe(*found) for found in chosen], indent=2))
        return
    rows = [_row(*found) for found in chosen]
    print(tabulate(rows, headers=("name", "system", "config", "licence", "size", "here"), disable_numparse=True))
    print(f"\nThey are kept in '{store_folder()}'. \"not stated\": the authors give no licence for them.")


def describe(card: SystemCard, checkpoint: OfficialCheckpoint) -> dict[str, Any]:
    """All that is known of a published checkpoint, for JSON."""
    place = place_of(address_of(card, checkpoint))
    return {
        **dataclasses.asdict(checkpoint),
        "system": card.name,
        "licence": card.weights_licence,
        "place": str(place),
        "here": place.is_file(),
    }


def _row(card: SystemCard, checkpoint: OfficialCheckpoint) -> tuple[str, ...]:
    place = place_of(address_of(card, checkpoint))
    bytes_here = place.stat().st_size if place.is_file() else checkpoint.size
    size = "?" if bytes_here is None else f"{bytes_here / _MEGABYTE:.0f} MB"
    here = "yes" if place.is_file() else "by hand" if checkpoint.by_hand else ""
    licence = card.weights_licence.partition(" (")[0] or "not stated"
    return (checkpoint.name, card.name, ", ".join((checkpoint.config, *checkpoint.also)), licence, size, here)


def address_named(name: str) -> Address:
    """Where what a person calls `name` is: a checkpoint, the one of a config, or an address.

    Raises:
        UserError: nothing is called so, or nothing was published for the config.
    """
    if is_address(name):
        return parse_address(name)
    if any(name in card.configs for card in all_cards()):
        checkpoint = official_weights(name)
        if not checkpoint:
            raise UserError(f"config {name!r} needs no checkpoint: CLIP's own weights, MODEL.CLIP.PRETRAINED, are all")
        name = checkpoint
    found = find_published(name)
    if found is None:
        raise UserError(f"no published checkpoint or config {name!r}{_near(name)}; see `twostage weights list`")
    return address_of(*found)


def _near(name: str) -> str:
    configs = [config for card in all_cards() for config in card.configs]
    return near_names(name, [*configs, *(checkpoint.name for _, checkpoint in published())])


def verify(names: Iterable[str]) -> None:
    """Check files of the store against what they were on first use, and print them.

    Raises:
        UserError: one has changed or is missing; the others are checked nevertheless.
    """
    chosen = [place_of(address_named(name)) for name in names] or kept_files()
    published_sha256 = {place_of(a): a.sha256 for a in (address_of(*found) for found in published())}
    wrong = []
    for path in chosen:
        try:
            if not path.is_file():
                raise UserError(f"'{path}' is not here; get it by `twostage weights get`")
            known = record_file(path).is_file()
            check(path, published=published_sha256.get(path, ""))
        except UserError as error:
            wrong.append(str(error))
            continue
        print(f"{path}: {'as on first use' if known else 'recorded now'}")
    if wrong:
        raise UserError(f"{len(wrong)} of {len(chosen)} files are wrong: {'; '.join(wrong)}")
    if not chosen:
        print(f"nothing is in '{store_folder()}'")


def kept_files() -> list[Path]:
    """The weights files in the store, without what is kept beside them."""
    files = sorted(path for path in store_folder().rglob("*") if path.is_file())
    return [path for path in files if not path.name.startswith(".") and path.suffix != ".sha256"]
