"""Seeded weights of a case, through the table that official checkpoints use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from conformance.case import Case
from conformance.seeded import seeded_state
from twostage.checkpoint.renaming import CheckpointTable, check_complete
from twostage.errors import UserError
from twostage.systems.building import build_model


def seeded_model(cfg: CfgNode, case: Case) -> Any:
    """The model of `cfg` with the case's weights."""
    model = build_model(cfg)
    load_seeded(model, model.checkpoint_table(), case)
    return model


def load_seeded(model: nn.Module, table: CheckpointTable, case: Case) -> None:
    """Fill `model` as the case says: seed, buffers left as constructed, then gains, constants and tweaks.

    Raises:
        UserError: a change of the weights that is not known here, or names a tensor that the system does not have.
    """
    meta = case.meta
    constructed = table.to_official(model.state_dict())
    # Some cases describe their weights in words alone.
    weights = meta.get("weights", {})
    weights = weights if isinstance(weights, Mapping) else {}
    fills = {**weights.get("weight_sets", {}), **meta.get("weight_overrides", {})}
    official = seeded_state(
        constructed,
        seed=meta["weight_seed"],
        gains=[*weights.get("weight_gains", ()), *weights.get("gains", ()), *meta.get("weight_scales", {}).items()],
        fills=fills,
        constant=[name for name in constructed if _is_constant(name, meta.get("constant_buffers", ()))],
    )
    if missing := sorted(set(fills) - set(official)):
        raise UserError(f"case '{case.path}' sets {missing[0]!r}, which this system does not have")
    _tweak(official, case)
    ours = table.to_ours(official, source="seeded weights")
    check_complete(ours, model.state_dict(), fresh=table.fresh, source="seeded weights", model=type(model).__name__)
    model.load_state_dict(ours, strict=False)


def _is_constant(name: str, stated: Any) -> bool:
    """Whether the case lists tensor `name`, by its name or a pattern, a remark behind it left out."""
    return any(fnmatchcase(name, entry.partition(" ")[0]) for entry in stated)


def _tweak(official: dict[str, Tensor], case: Case) -> None:
    for names, what in case.meta.get("weight_tweaks", {}).items():
        if names == "why":
            continue
        for name in names.split(" and "):
            if name not in official:
                raise UserError(f"case '{case.path}' changes {name!r}, which this system does not have")
            official[name] = tweaked(official[name], what, case.arrays.get(f"tweak__{name}"))


def tweaked(tensor: Tensor, what: str, stored: np.ndarray | None) -> Tensor:
    """A seeded tensor after a change described in words.

    >>> tweaked(torch.tensor([1.0, 2.0]), "entry [0] set to -5.3", None)
    tensor([-5.3000,  2.0000])
    """
    if factor := re.fullmatch(r"seeded tensor times (\S+)", what):
        return tensor * float(factor[1])
    if entry := re.fullmatch(r"(?:row|entry) \[(\d+)\] set to (\S+)", what):
        tensor = tensor.clone()
        tensor[int(entry[1])] = float(entry[2])
        return tensor
    if what.startswith("replaced by the vectors stored") and stored is not None:
        return torch.from_numpy(stored)
    raise UserError(f"reference case changes weights in an unknown way: {what!r}")
