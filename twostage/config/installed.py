"""Config keys of installed systems: none may be one that is already there."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup, all_keys, get_key

# Stands for the value of a key that was there before.
_BEFORE = object()


def check_apart(cfg: CN, group: KeyGroup, name: str, owners: Mapping[str, str]) -> None:
    """UserError where the keys `group` of the installed system `name` would change what `cfg` holds.

    Args:
        owners: key of `cfg` -> whose it is.
    """
    trial = cfg.clone()
    _mark(trial)
    try:
        group.add(trial)
    except Exception as error:
        raise UserError(
            f"the installed system {name} can't add its config keys: {type(error).__name__}: {error}; update or uninstall it"
        ) from error
    for key in all_keys(cfg):
        if not _untouched(trial, key):
            raise UserError(
                f"the installed system {name} has a config key {key!r}, which {owners[key]} has already; its package has to "
                "rename it, until then uninstall it"
            )


def _mark(node: CN) -> None:
    for key, value in node.items():
        if isinstance(value, CN):
            _mark(value)
        else:
            # Past CfgNode, which takes plain values only.
            dict.__setitem__(node, key, _BEFORE)


def _untouched(cfg: CN, key: str) -> bool:
    try:
        return get_key(cfg, key) is _BEFORE
    except KeyError:
        return False
