"""How a config is read and checked: defaults, then the yaml (with `_BASE_`), then `KEY VALUE` overrides, then all checks.

Whatever is wrong raises `UserError` naming the key, the value and what is allowed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from twostage.clip import keys as clip
from twostage.config.installed import check_apart
from twostage.config.overrides import merge_overrides, place_of
from twostage.data import keys as data
from twostage.engine import keys as engine
from twostage.errors import UserError, near_names, shown
from twostage.evaluation import keys as evaluation
from twostage.foundation import keys as foundation
from twostage.inference import keys as inference
from twostage.keys import KeyGroup, all_keys, get_key
from twostage.machine import expand_home, user_path
from twostage.predictions import keys as predictions
from twostage.proposals import keys as proposals
from twostage.sizes import LONGEST_SIDE
from twostage.systems.card import SystemCard
from twostage.systems.cards import all_cards, cards_of, is_installed, unknown_architecture
from twostage.weights.names import OFFICIAL, official_weights

# Rooms that systems share, each with a `keys.py`; a system's own keys come with its card.
_ROOMS = (clip, data, engine, evaluation, foundation, inference, predictions, proposals)


def key_groups() -> tuple[KeyGroup, ...]:
    """The keys of every room and of every system; what several systems list counts once."""
    return tuple({id(group): group for _, group in _owned_groups()}.values())


def _owned_groups() -> list[tuple[SystemCard | None, KeyGroup]]:
    """Every group with the card that brings it, None for those of the rooms; ours before those of installed systems."""
    rooms: list[tuple[SystemCard | None, KeyGroup]] = [(None, group) for room in _ROOMS for group in room.GROUPS]
    return rooms + [(card, group) for card in all_cards() for group in card.keys]


def add_twostage_config(cfg: CN) -> None:
    """Add twostage's keys, and those of installed systems, to Detectron2's defaults `cfg` (in place).

    Raises:
        UserError: an installed system has a key that is taken.
    """
    owners = dict.fromkeys(all_keys(cfg), "Detectron2") if any(map(is_installed, all_cards())) else {}
    added: set[int] = set()
    for card, group in _owned_groups():
        if id(group) in added:
            continue
        added.add(id(group))
        if card is not None and is_installed(card):
            check_apart(cfg, group, card.name, owners)
        group.add(cfg)
        if owners:
            for key in all_keys(cfg):
                owners.setdefault(key, card.name if card else "twostage")


def default_config() -> CN:
    """Detectron2's defaults plus twostage's."""
    cfg = get_cfg()
    add_twostage_config(cfg)
    return cfg


def load_config(config_file: str = "", opts: Sequence[str] = ()) -> CN:
    """Defaults, then `config_file` (yaml, `_BASE_` allowed), then `KEY VALUE` pairs; checked, not frozen.

    Raises:
        UserError: file missing or not yaml, unknown key, wrong type, a value that is not allowed.
    """
    cfg = default_config()
    if config_file:
        _merge_file(cfg, config_file)
    merge_overrides(cfg, opts, known=all_keys(cfg))
    _expand_paths(cfg)
    if cfg.MODEL.WEIGHTS == OFFICIAL:
        cfg.MODEL.WEIGHTS = official_weights(config_file)
    validate_config(cfg)
    return cfg


def _merge_file(cfg: CN, config_file: str) -> None:
    config_file = str(user_path(config_file))
    if not Path(config_file).is_file():
        folder = Path(config_file).parent
        near = near_names(Path(config_file).name, [p.name for p in folder.glob("*.yaml")]) if folder.is_dir() else ""
        raise UserError(f"config file '{config_file}' does not exist{near}; the published ones are under configs/")
    try:
        tree = CN(CN.load_yaml_with_base(config_file))
    # AssertionError: a date, a set or bytes, which no key can be.
    except (
        AssertionError,
        yaml.YAMLError,
        OSError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise UserError(f"config file '{config_file}' can't be read: {' '.join(str(error).split())}") from error
    for key in all_keys(tree):
        _check_known(cfg, key, f"config file '{config_file}'")
    _check_groups(cfg, tree, f"config file '{config_file}'")
    try:
        cfg.merge_from_other_cfg(tree)
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(f"config file '{config_file}': {' '.join(str(error).split())}") from error


def _expand_paths(cfg: CN) -> None:
    """`~` in every key that is a path, or holds paths, becomes the user's home."""
    for group in key_groups():
        for key in group.paths:
            node, name = place_of(cfg, key, known=())
            value = node[name]
            if isinstance(value, str):
                node[name] = expand_home(value)
            elif isinstance(value, list | tuple):
                node[name] = type(value)(_expand_named(str(entry)) for entry in value)


def _expand_named(entry: str) -> str:
    name, equals, path = entry.rpartition("=")
    return f"{name}{equals}{expand_home(path)}"


def _check_known(cfg: CN, key: str, where: str) -> None:
    try:
        get_key(cfg, key)
    except KeyError:
        raise UserError(f"{where}: unknown config key '{key}'{near_names(key, all_keys(cfg))}") from None


def _check_groups(cfg: CN, tree: CN, where: str, prefix: str = "") -> None:
    """UserError where `tree` has a value in the place of a group of keys."""
    for name, value in tree.items():
        group = cfg.get(name)
        if not isinstance(group, CN):
            continue
        if not isinstance(value, CN):
            raise UserError(
                f"{where}: '{prefix}{name}' is a group of keys, not {shown(value)}; give some of its keys below it"
            )
        _check_groups(group, value, where, f"{prefix}{name}.")


def validate_config(cfg: CN) -> None:
    """Check values that no type check sees. Raises UserError naming key, value and what is allowed."""
    _check_meta_architecture(cfg)
    for group in key_groups():
        for key, allowed in group.choices.items():
            value = get_key(cfg, key)
            if value not in allowed:
                near = near_names(str(value), [str(a) for a in allowed])
                raise UserError(f"{key} is {shown(value)}; allowed: {', '.join(repr(a) for a in allowed)}{near}")
        for key in group.positive:
            value = get_key(cfg, key)
            entries = value if isinstance(value, list | tuple) else [value]
            if not entries or not all(isinstance(entry, int | float) and entry > 0 for entry in entries):
                raise UserError(f"{key} is {shown(value)}; it must be greater than 0")
        for key in group.not_negative:
            value = get_key(cfg, key)
            if not isinstance(value, int | float) or value < 0:
                raise UserError(f"{key} is {shown(value)}; it must be 0 or more")
        for key in group.sides:
            value = get_key(cfg, key)
            entries = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(entry, int | float) and entry > LONGEST_SIDE for entry in entries):
                raise UserError(f"{key} is {shown(value)}; sides have at most {LONGEST_SIDE} pixels")
        for key in group.fraction:
            value = get_key(cfg, key)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise UserError(f"{key} is {shown(value)}; it must lie between 0 and 1")
        if group.check is not None:
            group.check(cfg)


def _check_meta_architecture(cfg: CN) -> None:
    name = cfg.MODEL.META_ARCHITECTURE
    # Models that a program has registered itself; where it has not even imported the registry there are none.
    modeling = sys.modules.get("detectron2.modeling")
    if not cards_of(name) and not (modeling and name in modeling.META_ARCH_REGISTRY):
        raise unknown_architecture(str(name))
