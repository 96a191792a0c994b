"""Commands about systems: which there are, their weights, and making them available elsewhere."""

from __future__ import annotations

from twostage.commands.arguments.parts import add_config, add_fast, add_overrides, positive
from twostage.commands.parser import Parser
from twostage.machine import expand_home


def systems_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage systems`."""
    parser = Parser(text, prog)
    parser.add_argument("--json", action="store_true", help="print the cards as JSON")
    parser.add_argument(
        "--all", action="store_true", help="also those of the field's tables that are not hosted, and why"
    )
    parser.set_defaults(markdown=False, update_readme=False)
    return parser


def weights_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage weights` and `tools/weights.py`: `list`, `get` and `verify` in `weights_command`."""
    parser = Parser(text, prog)
    commands = parser.add_subparsers(dest="weights_command", required=True)
    listing = commands.add_parser("list", help="what was published, and what of it is here")
    listing.add_argument("system", nargs="?", default="", help="of this system or config only")
    listing.add_argument("--json", action="store_true", help="print everything that is known as JSON")
    getting = commands.add_parser("get", help="download")
    getting.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="a checkpoint's name, a config's, hf://owner/repository/file or https://...",
    )
    verifying = commands.add_parser("verify", help="check that what is here is what it was on first use")
    verifying.add_argument("names", nargs="*", metavar="NAME", help="default: all that is here")
    return parser


def export_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage export`."""
    parser = Parser(text, prog)
    add_config(parser)
    parser.add_argument("--output", required=True, type=expand_home, metavar="FILE.onnx")
    parser.add_argument(
        "--size",
        default="dynamic",
        metavar="HEIGHTxWIDTH",
        help="every picture is stretched to this size; dynamic (default): pictures of any size",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16"),
        default="float32",
        help="of the stored weights; computing is in float32 (default float32)",
    )
    parser.add_argument(
        "--pictures", type=positive, default=20, metavar="N", help="toybox pictures to compare on (default 20)"
    )
    add_overrides(parser)
    return parser


def serve_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage serve` and `tools/serve.py`."""
    parser = Parser(text, prog)
    parser.add_argument(
        "--system", action="append", default=[], metavar="SYSTEM", help="a config's name or file; may be given again"
    )
    parser.add_argument(
        "--weights", action="append", default=[], metavar="NAME_OR_FILE", help="of each --system, in the same order"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; the default serves this machine only"
    )
    parser.add_argument("--port", type=int, default=7860, help="0: any free one")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ...; auto: a GPU where there is one")
    add_fast(parser)
    return parser


def completion_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage completion`."""
    parser = Parser(text, prog)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser
