"""An argparse parser whose mistakes are answered like all others: one sentence with near names, exit code 2."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from twostage.errors import UserError, near_names

# How a `KEY VALUE` or `KEY=VALUE` override begins.
_KEY = re.compile(r"[A-Z][A-Z0-9_]*([.=]|$)")


class Parser(argparse.ArgumentParser):
    """Raises `UserError` where argparse prints its usage and leaves.

    `--weights FILE`, where a parser has it beside overrides in `opts`, stands for `MODEL.WEIGHTS FILE` before them, and
    `--fast` for `MODEL.PRECISION fast`.
    """

    def __init__(self, text: str | None = None, prog: str | None = None, **more: Any) -> None:
        """
        Args:
            text: what `--help` shows above the options.
            prog: name of the program; None: that of the running file.
        """
        more.setdefault("description", text)
        super().__init__(prog=prog, formatter_class=argparse.RawDescriptionHelpFormatter, **more)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, after a look at the options: it would say first what else is missing."""
        words = sys.argv[1:] if args is None else list(args)
        # The parser of a subcommand looks at its own.
        if self._subparsers is None:
            self._check_options(words)
        found, rest = super().parse_known_args(words, namespace)
        if getattr(found, "weights", None) is not None and hasattr(found, "opts"):
            found.opts = ["MODEL.WEIGHTS", found.weights, *found.opts]
            found.weights = None
        if getattr(found, "fast", False) and hasattr(found, "opts"):
            found.opts = ["MODEL.PRECISION", "fast", *found.opts]
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Raises UserError: `message`, and where to look."""
        raise UserError(f"{message}; `{self.prog} --help` shows what there is")

    def _check_options(self, words: Sequence[str]) -> None:
        options = self._option_string_actions
        for word in words:
            if word == "--" or _KEY.match(word):
                return
            name = word.partition("=")[0]
            # argparse takes beginnings of options, and words with a space for no options.
            if not name.startswith("--") or " " in word or any(option.startswith(name) for option in options):
                continue
            self.error(f"there is no option {name}{near_names(name, options)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            allowed = [str(choice) for choice in action.choices]
            self.error(f"there is no {value!r}{near_names(str(value), allowed)}; there are: {', '.join(allowed)}")
