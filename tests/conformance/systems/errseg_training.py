"""A training step of ERR-Seg: loss, gradients, and what the optimizer makes of them."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import GRADIENT_TOLERANCE, Comparison, compare_names, compare_number, compare_sets
from conformance.inputs import picture
from conformance.optimizer import check_gradients, check_optimizer, official_gradients
from conformance.systems.errseg_recording import aggregator_arrays, logit_arrays, model_arrays, recording_model
from twostage.data.mapper import to_tensor
from twostage.engine.optimizer import build_optimizer
from twostage.systems.one_stage.errseg.model import ERRSeg
from twostage.systems.one_stage.errseg.selection import present_classes, select_classes
from twostage.vocabulary import Vocabulary

# Gradients that are nearly zero are compared by their difference: their relative error is rounding. What adds the same to all
# keys of a query (the biases of keys and of the norm before them) has none at all: 1e-11 is stored.
_TINY_GRADIENT = 1e-6
# AdamW's first step is the sign of a gradient where that is far above eps; where it is not, its last digits count.
_UPDATE_TOLERANCE = 2e-2


def check_training(model: ERRSeg, case: Case, cfg: CfgNode) -> list[Comparison]:
    """One training step of a case, and its table of trainable parameters."""
    meta = case.meta
    batch = training_batch(case)
    labels, names = [entry["sem_seg"] for entry in batch], meta["class_names"]
    optimizer = build_optimizer(cfg, model)
    text = model.text(Vocabulary.published(names))
    with recording_model(model) as recorded:
        images = model.preprocess(batch)
        encoded = model.encode(images)
        losses = model.losses(encoded, text, batch, images)
    loss = losses["loss_sem_seg"]
    loss.backward()
    with torch.no_grad():
        present = [present_classes(label, len(text)) for label in labels]
        kept = select_classes(model.costs(encoded, text).fine, model.slots, present)
        arrays = model_arrays(model, encoded, text, kept) | aggregator_arrays(recorded)
        arrays |= logit_arrays(recorded["head"], kept, len(text))
    arrays |= {f"grad:{name}": value for name, value in official_gradients(model).items()}
    rows = [compare_array(case, name, arrays[name]) for name in case.names if arrays.get(name) is not None]
    (wanted,) = meta["losses"].values()
    rows.append(compare_number("loss_sem_seg", loss.item(), wanted))
    rows += [compare_number(f"weight of {name}", 1.0, weight) for name, weight in meta.get("loss_weights", {}).items()]
    if "total" in meta:
        rows.append(compare_number("total", loss.item(), meta["total"]))
    rows += check_gradients(
        model,
        case,
        norms=meta.get("gradient_norms", {}),
        total="total_grad_norm",
        without="trainable_without_grad",
        tiny=_TINY_GRADIENT,
    )
    return [*rows, *check_update(model, case, batch, optimizer), *check_counts(model, case, cfg)]


def compare_array(case: Case, name: str, ours: Tensor) -> Comparison:
    """One stored array of a training step, gradients at their own tolerance."""
    if not name.startswith("grad:"):
        return case.compare(name, ours)
    stored = case.arrays[name if name in case.arrays else f"{name}__val"]
    return case.compare(name, ours, GRADIENT_TOLERANCE, scale=max(_TINY_GRADIENT, float(abs(stored).max())))


def training_batch(case: Case) -> list[dict[str, Any]]:
    """Inputs of a training case, whose labels are stored."""
    case.told("mode", "gt")
    entry, names = case.meta["images"], case.meta["class_names"]
    labels = [torch.from_numpy(case.arrays[f"gt{index}"]).long() for index in range(len(entry["seeds"]))]
    return [
        {"image": to_tensor(picture({**entry, "seed": seed})), "sem_seg": label, "vocabulary": names}
        for seed, label in zip(entry["seeds"], labels, strict=True)
    ]


def check_update(model: Any, case: Case, batch: list[dict[str, Any]], optimizer: Any) -> list[Comparison]:
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


def check_counts(model: Any, case: Case, cfg: CfgNode) -> list[Comparison]:
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
