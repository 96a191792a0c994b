"""What the commands' arguments have in common: how a system is named, kinds of numbers."""

from __future__ import annotations

import argparse

from twostage.commands.parser import Parser
from twostage.errors import UserError
from twostage.machine import expand_home


def add_config(parser: Parser, *, required: bool = True) -> argparse._MutuallyExclusiveGroup:
    """Add the ways to name a system, and its weights; returns the group, for further ways."""
    which = parser.add_mutually_exclusive_group(required=required)
    # The first of them gives the default.
    which.add_argument("--config-file", default="", type=expand_home, metavar="FILE", help="a yaml file")
    which.add_argument("--system", dest="config_file", type=_system, metavar="SYSTEM", help="or a config's name")
    parser.add_argument(
        "--weights", metavar="NAME_OR_FILE", help="a checkpoint: a file, official, a published name or an address"
    )
    return which


def _system(name: str) -> str:
    """The file of a config's name."""
    # Reads the cards, which --help does without.
    from twostage.config.finding import find_config

    return find_config(name)


def add_overrides(parser: Parser) -> None:
    """Take what stands behind the options as overrides of the config."""
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")


def add_fast(parser: Parser) -> None:
    """Add `--fast`."""
    parser.add_argument("--fast", action="store_true", help="compute in reduced precision where that is faster")


def add_processes(parser: Parser) -> None:
    """Add the number of processes on this machine."""
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes; without GPUs on the CPU")


def positive(text: str) -> int:
    """A whole number from 1 on. Raises UserError for anything else."""
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{text!r} is no number of things; give a whole number from 1 on")
    return int(text)


def number(text: str) -> float:
    """Any number. Raises UserError for anything else, and for NaN, which nothing is above or below."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value:
        raise UserError(f"{text!r} is no number")
    return value


def fraction(text: str) -> float:
    """A number between 0 and 1. Raises UserError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UserError(f"{text!r} is no share; give a number between 0 and 1")
    return value
