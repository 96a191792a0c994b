"""Commands about datasets: listing, preparing, verifying."""

from __future__ import annotations

import os

from twostage.commands.arguments.parts import positive
from twostage.commands.parser import Parser
from twostage.machine import expand_home


def prepare_datasets_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/prepare_datasets.py`: `list`, `prepare` and `verify` in `command`."""
    parser = Parser(text, prog)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_listing(commands.add_parser("list", help="the benchmarks, or all about one of them"))
    _add_preparing(commands.add_parser("prepare", help="make the labels of a benchmark"))
    _add_checking(commands.add_parser("verify", help="check what lies on disk"))
    return parser


def datasets_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage datasets`."""
    return _add_listing(Parser(text, prog))


def prepare_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage prepare`."""
    return _add_preparing(Parser(text, prog))


def verify_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage verify`."""
    return _add_checking(Parser(text, prog))


def _add_listing(parser: Parser) -> Parser:
    parser.add_argument("name", nargs="?", help="a benchmark, one of its registered names, or what papers call it")
    parser.set_defaults(command="list")
    return parser


def _add_preparing(parser: Parser) -> Parser:
    _add_checking(parser)
    parser.add_argument("--source", metavar="DIR", help="the unpacked download; default: the folder of all datasets")
    parser.add_argument(
        "--coco",
        type=expand_home,
        metavar="FILE",
        help="make the folder NAME, one of --splits, of a COCO json: instances, stuff or panoptic",
    )
    parser.add_argument("--pictures", type=expand_home, metavar="DIR", help="with --coco: where its file names lie")
    parser.add_argument(
        "--segments",
        type=expand_home,
        metavar="DIR",
        help="with --coco: the PNGs of a panoptic json; default: beside it, called like it",
    )
    parser.set_defaults(command="prepare")
    return parser


def _add_checking(parser: Parser) -> Parser:
    parser.add_argument("name", type=expand_home, help="a benchmark or a folder of your own")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", default=[], help="train, val; default: all there are")
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="files at a time")
    parser.add_argument("--skip-broken", action="store_true", help="count and list broken files, don't stop at them")
    parser.set_defaults(command="verify")
    return parser
