"""How a room's config keys are declared: its defaults, the values each key may have, and checks across keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from detectron2.config import CfgNode as CN


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyGroup:
    """The config keys of one room or system.

    Attributes:
        add: puts the keys with their defaults into a config (in place), each with a comment that says what it means.
        choices: key -> the values it may have.
        positive: keys that must be greater than 0; of a list, every entry, and there must be one.
        not_negative: keys that must be 0 or more.
        fraction: keys that must lie between 0 and 1.
        sides: keys that are sides of pictures, tiles or crops in pixels, which may not be endless (`twostage/sizes.py`).
        paths: keys that are a file or folder, or hold some ("path" or "name=path"); `~` is expanded in them.
        check: raises UserError where values contradict each other.
    """

    add: Callable[[CN], None]
    choices: Mapping[str, tuple[object, ...]] = dataclasses.field(default_factory=dict)
    positive: tuple[str, ...] = ()
    not_negative: tuple[str, ...] = ()
    fraction: tuple[str, ...] = ()
    sides: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    check: Callable[[CN], None] | None = None


def all_keys(cfg: CN, prefix: str = "") -> list[str]:
    """Dotted names of every leaf of `cfg`."""
    names: list[str] = []
    for key, value in cfg.items():
        name = f"{prefix}{key}"
        names += all_keys(value, f"{name}.") if isinstance(value, CN) else [name]
    return names


def get_key(cfg: CN, key: str) -> object:
    """Value of a dotted key; KeyError where it does not exist."""
    node: object = cfg
    for part in key.split("."):
        if not isinstance(node, CN) or part not in node:
            raise KeyError(key)
        node = node[part]
    return node
