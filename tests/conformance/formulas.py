"""Formulas that cases give in words: evaluated, so that a case means what it says.

Only numbers, tuples, names that the caller gives, the usual operators and the functions that the caller gives are read.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from twostage.errors import UserError

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def evaluate(formula: str, /, **names: Any) -> Any:
    """The value of `formula`, in which `^` is a power, `mod` is `%` and `|x|` the absolute value.

    Args:
        names: values (numbers, arrays) and functions that may occur.

    Raises:
        UserError: the formula holds something else.

    >>> evaluate("4*100+i", i=3)
    403
    >>> evaluate("|y - 50| < 3", y=48)
    True
    """
    text = re.sub(r"\|([^|]+)\|", r"abs(\1)", re.sub(r"\bmod\b", "%", formula)).replace("^", "**").strip()
    try:
        return _value(ast.parse(text, mode="eval").body, {"abs": abs, **names})
    except (SyntaxError, KeyError, TypeError) as error:
        raise UserError(f"the case's formula {formula!r} can't be read ({error})") from error


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item, names) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, names)
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_value(node.left, names), _value(node.right, names))
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return _COMPARE[type(node.ops[0])](_value(node.left, names), _value(node.comparators[0], names))
    if isinstance(node, ast.Call):
        keywords = {word.arg: _value(word.value, names) for word in node.keywords if word.arg}
        return names[ast.unparse(node.func)](*(_value(item, names) for item in node.args), **keywords)
    raise TypeError(f"{type(node).__name__} is not read here")


def found(pattern: str, text: str, what: str) -> re.Match[str]:
    """The first match of `pattern` in a case's words. Raises UserError naming `what` where they read otherwise."""
    match = re.search(pattern, text)
    if match is None:
        raise UserError(f"{what} of the case reads otherwise than the known ones: {text!r}")
    return match
