"""A training step of the systems that learn label maps by dense scores: inputs, and what a case stores of the step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_names, compare_number, compare_sets
from conformance.inputs import picture
from conformance.optimizer import check_gradients, check_optimizer
from conformance.recording import Arrays
from conformance.training import compare_step, gradient_arrays
from twostage.data.mapper import to_tensor

# AdamW's first step is the sign of a gradient where that is far above eps; where it is not, its last digits count.
_UPDATE_TOLERANCE = 2e-2


def check_step(
    model: Any,
    case: Case,
    cfg: CfgNode,
    batch: list[dict[str, Any]],
    optimizer: Any,
    losses: Mapping[str, Tensor],
    arrays: Arrays,
    *,
    tiny: float,
    scales: Mapping[str, float] | None = None,
) -> list[Comparison]:
    """Arrays, losses, gradients, the optimizer's step and its table, behind a backward pass.

    Args:
        losses: in the order of the case's.
        arrays: what the pass kept.
        tiny, scales: see `check_gradients` and `compare_step`.
    """
    meta = case.meta
    rows = compare_step(case, arrays | gradient_arrays(model), tiny=tiny, scales=scales)
    for (name, ours), wanted in zip(losses.items(), meta["losses"].values(), strict=True):
        rows.append(compare_number(name, ours.item(), wanted))
    rows += [compare_number(f"weight of {name}", 1.0, weight) for name, weight in meta.get("loss_weights", {}).items()]
    if "total" in meta:
        rows.append(compare_number("total", torch.stack(list(losses.values())).sum().item(), meta["total"]))
    rows += check_gradients(
        model,
        case,
        norms=meta.get("gradient_norms", {}),
        total="total_grad_norm",
        without="trainable_without_grad",
        tiny=tiny,
        scales=scales,
    )
    return [*rows, *_check_update(model, case, batch, optimizer), *_check_counts(model, case, cfg)]


def training_batch(case: Case) -> list[dict[str, Any]]:
    """Inputs of a training case, whose labels are stored."""
    case.told("mode", "gt")
    entry, names = case.meta["images"], case.meta["class_names"]
    labels = [torch.from_numpy(case.arrays[f"gt{index}"]).long() for index in range(len(entry["seeds"]))]
    return [
        {"image": to_tensor(picture({**entry, "seed": seed})), "sem_seg": label, "vocabulary": names}
        for seed, label in zip(entry["seeds"], labels, strict=True)
    ]


def _check_update(model: Any, case: Case, batch: list[dict[str, Any]], optimizer: Any) -> list[Comparison]:
    """How far one step moves the parameters, and the loss behind it."""
    meta, rows = case.meta, []
    official: dict[str, Any] = model.checkpoint_table().to_official(dict(model.named_parameters()))
    if "trainable_with_zero_grad" in meta:
        zero = [n for n, p in official.items() if p.grad is not None and not p.grad.any()]
        rows.append(compare_names("zero gradients", zero, meta["trainable_with_zero_grad"]))
    before: dict[str, Tensor] = {name: value.detach().clone() for name, value in official.items()}
    optimizer.step()
    for name, wanted in meta.get("update_norm_after_one_step", {}).items():
        moved = (official[name].detach() - before[name]).norm().item()
        rows.append(compare_number(f"update_norm {name}", moved, wanted, tolerance=_UPDATE_TOLERANCE))
    if "loss_after_one_optimizer_step" in meta:
        with torch.no_grad():
            behind = model(batch)
        for (name, ours), wanted in zip(behind.items(), meta["loss_after_one_optimizer_step"].values(), strict=True):
            rows.append(compare_number(f"{name} after one step", ours.item(), wanted, 1e-2))
    return rows


def _check_counts(model: Any, case: Case, cfg: CfgNode) -> list[Comparison]:
    """The table of trainable parameters, and how many there are."""
    sizes = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    counts = {
        "num_trainable_tensors": len(sizes),
        "num_trainable_params": sum(sizes),
        "num_params": sum(parameter.numel() for parameter in model.parameters()),
    }
    published = {name: case.meta[name] for name in counts if name in case.meta}
    rows = check_optimizer(model, case, cfg)
    return [*rows, compare_sets("parameter counts", {name: counts[name] for name in published}, published)]
