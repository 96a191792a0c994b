"""Which parameters a system trains, and how, against the table that a case holds or names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from conformance.case import Case
from conformance.comparison import GRADIENT_TOLERANCE, Comparison, compare_names, compare_number, compare_sets
from twostage.checkpoint.renaming import CheckpointTable
from twostage.engine.optimizer import parameter_settings

# Where cases hold their table, or the name of the file beside them that does.
_FIELDS = (
    "trainable",
    "optimizer",
    "trainable_lr_mult_and_weight_decay",
    "trainable_table",
    "trainable_list",
    "optimizer_table",
)


def official_names(model: Any, table: CheckpointTable) -> dict[str, str]:
    """Our parameter names -> official ones; the table renames dictionaries, so one entry at a time tells which is which."""
    names = {}
    for name, _ in model.named_parameters():
        (names[name],) = table.to_official({name: torch.zeros(1, 1)}) or (name,)
    return names


def trainable_table(model: nn.Module, table: CheckpointTable, cfg: CfgNode) -> dict[str, tuple[float, float]]:
    """Official name -> (learning-rate multiplier, weight decay) of every trainable parameter."""
    names = official_names(model, table)
    return {
        names[name]: (round(setting.lr / cfg.SOLVER.BASE_LR, 9), setting.weight_decay)
        for name, setting in parameter_settings(cfg, model).items()
    }


def stored_table(case: Case) -> tuple[dict[str, tuple[float, float]], dict[str, Any]] | None:
    """The case's table as official name -> (multiplier, decay), and what stands beside it; None where there is none."""
    for field in _FIELDS:
        stored = case.meta.get(field)
        if isinstance(stored, str) and stored.endswith(".json"):
            stored = case.beside(stored)
        if not isinstance(stored, Mapping):
            continue
        about = {key: value for key, value in stored.items() if key != "trainable"} if "trainable" in stored else {}
        entries = stored.get("trainable", stored)
        if isinstance(entries, Mapping):
            return {name: _entry(entry) for name, entry in entries.items()}, about
    return None


def _entry(entry: Any) -> tuple[float, float]:
    """(multiplier, decay) of a pair, or of an object that calls the first `lr_multiplier` or `lr_mult`."""
    if isinstance(entry, Mapping):
        rate = entry["lr_multiplier"] if "lr_multiplier" in entry else entry["lr_mult"]
        return round(rate, 9), entry["weight_decay"]
    return round(entry[0], 9), entry[1]


def check_optimizer(model: Any, case: Case, cfg: CfgNode) -> list[Comparison]:
    """Trainable parameters with multiplier and decay, and the base rate; skipped where the case has no table."""
    stored = stored_table(case)
    if stored is None:
        named = [case.meta[field] for field in _FIELDS if str(case.meta.get(field, "")).endswith(".json")]
        return case.skip(f"the optimizer's table ({named[0] if named else 'none'}), which is not at hand")
    wanted, about = stored
    rows = [compare_sets("trainable parameters", trainable_table(model, model.checkpoint_table(), cfg), wanted)]
    base_lr = about.get("base_lr", case.meta.get("base_lr"))
    if base_lr is not None:
        rows.append(compare_number("base_lr", cfg.SOLVER.BASE_LR, base_lr))
    return rows


def official_gradients(model: Any) -> dict[str, Tensor]:
    """Official name -> gradient, of the parameters that have one."""
    parameters = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return model.checkpoint_table().to_official(parameters)


def check_gradients(
    model: Any,
    case: Case,
    *,
    norms: Mapping[str, float],
    total: str = "",
    without: str = "",
    tolerance: float = GRADIENT_TOLERANCE,
    tiny: float = 0.0,
    scales: Mapping[str, float] | None = None,
    run: str = "",
) -> list[Comparison]:
    """Gradient norms under official names.

    Args:
        norms: official name -> wanted norm.
        total, without: fields of the case with the norm of all gradients, and with the trainable parameters that get none.
        run: which step it was, where a case has several.
        tiny: norms below it are rounding: they are compared by their difference, which must stay below it, too.
        scales: official name -> what its norm is compared relative to, in place of itself.
    """
    gradients = official_gradients(model)
    rows = []
    for name, wanted in norms.items():
        ours = gradients[name].norm().item() if name in gradients else 0.0
        if wanted < tiny:
            # The difference, passed while it is below `tiny`.
            rows.append(compare_number(f"grad_norm {run}{name}", ours, wanted, tolerance=tiny, scale=1.0))
        else:
            scale = (scales or {}).get(name)
            rows.append(compare_number(f"grad_norm {run}{name}", ours, wanted, tolerance, scale=scale))
    if total in case.meta:
        norm = torch.stack([g.norm() for g in gradients.values()]).norm().item()
        rows.append(compare_number(total, norm, case.meta[total], tolerance))
    if without in case.meta:
        names = official_names(model, model.checkpoint_table())
        missing = [names[n] for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        rows.append(compare_names("trainable without gradient", missing, case.meta[without]))
    return rows


def check_losses(ours: Mapping[str, Tensor], wanted: Mapping[str, float], **tolerance: float) -> list[Comparison]:
    """Losses by name; one that only one side has is a difference."""
    rows = [
        compare_number(name, ours[name].item(), value, **tolerance) for name, value in wanted.items() if name in ours
    ]
    return [*rows, compare_names("losses", ours, wanted)]
