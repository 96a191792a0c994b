"""`KEY VALUE` pairs of a command line: text, read as the type that the key has.

A text key takes its text as it stands (an output folder may be called 2024), a number may be written in any way that means
it (1e3, 2.0), one element may stand for a list of one.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode as CN

from twostage.errors import UserError, near_names, shown

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def merge_overrides(cfg: CN, opts: Sequence[Any], *, known: Sequence[str]) -> None:
    """Set the keys of `opts` in `cfg` (in place).

    Args:
        opts: KEY, VALUE, KEY, VALUE ...; `KEY=VALUE` is taken as well.
        known: dotted names of all keys.

    Raises:
        UserError: an unknown key, a key without a value, a value that is not of the key's type.
    """
    for key, value in _pairs(list(opts), known):
        node, name = place_of(cfg, key, known)
        old = node[name]
        if isinstance(old, CN):
            raise UserError(f"command line: '{key}' is a group, give one of its keys: {', '.join(list(old)[:8])}")
        node[name] = as_type_of(old, value, key=key)
        if not _is_plain(node[name]):
            raise UserError(
                f"command line: {key} = {shown(value)} does not fit; give text, numbers, True, False or lists of them"
            )


def _pairs(opts: list[Any], known: Sequence[str]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    while opts:
        key = str(opts.pop(0))
        name, equals, value = key.partition("=")
        if equals and name in known:
            pairs.append((name, value))
        elif key.startswith("--"):
            raise UserError(f"'{key}' stands behind overrides; give options first, then pairs 'KEY VALUE'")
        elif not opts:
            raise UserError(f"overrides must be pairs 'KEY VALUE'; '{key}' has no value")
        else:
            pairs.append((key, opts.pop(0)))
    return pairs


def place_of(cfg: CN, key: str, known: Sequence[str]) -> tuple[CN, str]:
    """The node that holds a dotted key, and the key's own name in it. Raises UserError where it does not exist."""
    *groups, name = key.split(".")
    node: Any = cfg
    for group in groups:
        node = node.get(group) if isinstance(node, CN) else None
    if not isinstance(node, CN) or name not in node:
        raise UserError(f"command line: unknown config key '{key}'{near_names(key, known)}")
    return node, name


def as_type_of(old: Any, value: Any, *, key: str) -> Any:
    """`value` as what the default `old` of `key` is.

    Raises:
        UserError: it can't be read as that.

    >>> as_type_of("./output", "2024", key="OUTPUT_DIR"), as_type_of((), "ds", key="DATASETS.TEST")
    ('2024', ('ds',))
    """
    if isinstance(old, str):
        return _text(value, key)
    literal = _literal(value) if isinstance(value, str) else value
    if isinstance(old, bool):
        if isinstance(literal, bool):
            return literal
        word = str(value).strip().lower()
        if word in (*_TRUE, *_FALSE):
            return word in _TRUE
    elif isinstance(old, int | float) and isinstance(literal, int | float) and not isinstance(literal, bool):
        # Neither infinite nor NaN, whatever its type.
        if isinstance(old, float) and abs(literal) <= sys.float_info.max:
            return float(literal)
        if isinstance(old, int) and (isinstance(literal, int) or literal.is_integer()):
            return int(literal)
    elif isinstance(old, list | tuple):
        return type(old)(_elements(literal, old, key))
    elif old is None or (isinstance(old, dict) and isinstance(literal, dict)):
        return literal
    raise UserError(
        f"command line: {key} = {shown(value)} does not fit; the default {old!r} is of type {type(old).__name__}"
    )


def _text(value: Any, key: str) -> str:
    if value is None or (isinstance(value, str) and value.strip() == "None"):
        raise UserError(f"command line: {key} = None does not fit; it is text, and for none give ''")
    if not isinstance(value, str | int | float | os.PathLike):
        raise UserError(f"command line: {key} = {shown(value)} does not fit; it is text")
    if not isinstance(value, str):
        return str(value)
    if any(letter == "\0" or "\ud800" <= letter <= "\udbff" for letter in value):
        raise UserError(f"command line: {key} = {shown(value)} holds a character that no file name or text may have")
    literal = _literal(value) if value[:1] in ("'", '"') else None
    return literal if isinstance(literal, str) else value


def _elements(literal: Any, old: Sequence[Any], key: str) -> list[Any]:
    if isinstance(literal, str):
        literal = [part.strip() for part in literal.split(",") if part.strip()]
    elements = list(literal) if isinstance(literal, list | tuple) else [literal]
    kinds = {type(element) for element in old}
    if kinds in ({int}, {float}, {int, float}) and not all(isinstance(element, int | float) for element in elements):
        raise UserError(f"command line: {key} = {shown(literal)} does not fit; the default {old!r} holds numbers")
    if kinds == {str} or not kinds:
        # Where the default is empty, numbers are as good as text.
        if any(element is None for element in elements):
            raise UserError(f"command line: {key} = {shown(literal)} does not fit; for none give ()")
        return [str(element) if kinds == {str} else element for element in elements]
    return elements


def _is_plain(value: Any) -> bool:
    """Whether yaml can say it."""
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    if isinstance(value, dict):
        return all(_is_plain(entry) for pair in value.items() for entry in pair)
    return value is None or isinstance(value, str | int | float)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
