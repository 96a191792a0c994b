"""Completion for shells, read off the parsers themselves.

The scripts hold every command, option, choice and config name, so that a shell answers without starting Python, and no
library has to be installed beside the package.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from twostage.commands.main import COMMANDS
from twostage.config.finding import config_names

_SYSTEM = "SYSTEM"


class Option(NamedTuple):
    """An option of a command: `path` is the command's words, `values` what may follow it, None for anything or nothing."""

    path: str
    name: str
    help: str
    takes_value: bool
    values: tuple[str, ...] | None


class Words(NamedTuple):
    """What may follow the words of a command: its subcommands or its choices, with what they mean."""

    path: str
    meanings: dict[str, str]


def run_from_arguments(args: argparse.Namespace) -> None:
    """Print the script for `args.shell`."""
    print({"bash": bash, "zsh": zsh, "fish": fish}[args.shell]())


def found() -> tuple[list[Words], list[Option]]:
    """Everything that can be completed."""
    words = [Words("", {name: command.summary for name, command in COMMANDS.items()})]
    options: list[Option] = []
    systems = tuple(config_names())
    for name, command in COMMANDS.items():
        for path, parser in _parsers(name, command.build_parser(name)):
            for action in parser._actions:
                options += [_option(path, action, systems) for _ in action.option_strings[-1:]]
                if not action.option_strings and action.choices:
                    words.append(Words(path, _meanings(action)))
    return words, options


def _parsers(path: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A parser and those of its subcommands, with the words that lead there."""
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from _parsers(f"{path} {name}", below)


def _option(path: str, action: argparse.Action, systems: tuple[str, ...]) -> Option:
    values = systems if action.metavar == _SYSTEM else tuple(map(str, action.choices)) if action.choices else None
    return Option(path, action.option_strings[-1], action.help or "", action.nargs != 0, values)


def _meanings(action: argparse.Action) -> dict[str, str]:
    meanings = dict.fromkeys(action.choices or (), "")
    if isinstance(action, argparse._SubParsersAction):
        meanings |= {str(about.dest): about.help or "" for about in action._choices_actions}
    return meanings


def bash() -> str:
    """A bash script that completes the words, then an option's values, then files."""
    words, options = found()
    by_path: dict[str, list[str]] = {}
    for option in options:
        by_path.setdefault(option.path, []).append(option.name)
    values = [(f"{o.path} {o.name}", o.values) for o in options if o.values]
    lines = [
        "_twostage() {",
        '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" path="" next known="|" i',
        *(f"  known+={shlex.quote(f'{path}|')}" for path in by_path),
        "  for (( i = 1; i < COMP_CWORD; i++ )); do",
        '    next="${path:+$path }${COMP_WORDS[i]}"',
        '    [[ "$known" == *"|$next|"* ]] || break',
        '    path="$next"',
        "  done",
        "  COMPREPLY=()",
        "  (( i == COMP_CWORD )) || [[ -n $path ]] || return",
        '  case "$path $before" in',
        *(f"    {shlex.quote(key)}) {_reply(allowed or ())}; return ;;" for key, allowed in values),
        "  esac",
        '  if [[ "$word" == -* ]]; then',
        '    case "$path" in',
        *(f"      {shlex.quote(path)}) {_reply(names)} ;;" for path, names in by_path.items()),
        "    esac",
        "    return",
        "  fi",
        '  case "$path" in',
        *(f"    {shlex.quote(entry.path)}) {_reply(entry.meanings)} ;;" for entry in words),
        '    *) COMPREPLY=( $(compgen -f -- "$word") ) ;;',
        "  esac",
        "}",
        "complete -o filenames -F _twostage twostage",
    ]
    return "\n".join(lines)


def _reply(choices: Iterable[str]) -> str:
    return f'COMPREPLY=( $(compgen -W {shlex.quote(" ".join(choices))} -- "$word") )'


def zsh() -> str:
    """The same for zsh, which runs bash's completions."""
    return f"autoload -Uz bashcompinit && bashcompinit\n{bash()}"


def fish() -> str:
    """The same in fish's words, with what each of them means."""
    words, options = found()
    lines = ["complete -c twostage -e"]
    for entry in words:
        # Only directly behind the words that lead here.
        here = _fish_condition(entry.path, count=len(entry.path.split()) + 1)
        lines += [
            f"complete -c twostage -n {here} -f -a {_quoted(name)} -d {_quoted(meaning)}"
            for name, meaning in entry.meanings.items()
        ]
    for option in options:
        line = f"complete -c twostage -n {_fish_condition(option.path)} -l {option.name.removeprefix('--')}"
        if option.values:
            line += f" -x -a {_quoted(' '.join(option.values))}"
        elif option.takes_value:
            line += " -r"
        lines.append(f"{line} -d {_quoted(option.help)}")
    return "\n".join(lines)


def _fish_condition(path: str, count: int = 0) -> str:
    tests = [f"__fish_seen_subcommand_from {word}" for word in path.split()]
    if count:
        tests.append(f"test (count (commandline -opc)) -eq {count}")
    return _quoted("; and ".join(tests))


def _quoted(text: str) -> str:
    """A word in single quotes, in which fish knows two escapes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
