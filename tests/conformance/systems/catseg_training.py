"""A training step of CAT-Seg: loss, gradients, and what the optimizer makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import (
    GRADIENT_TOLERANCE,
    Comparison,
    compare_names,
    compare_number,
    compare_sets,
)
from conformance.formulas import found
from conformance.inputs import picture
from conformance.optimizer import check_optimizer
from conformance.recording import Arrays
from conformance.seeded import stream
from conformance.systems.catseg_recording import Recording
from twostage.data.mapper import to_tensor
from twostage.engine.optimizer import build_optimizer
from twostage.systems.one_stage.catseg.model import CATSeg
from twostage.vocabulary import Vocabulary

# A bias of all keys adds the same to every score of a query, which softmax takes off again: what is stored as its gradient is
# rounding (1e-11), so that its norm is compared at the size of all gradients together.
_NO_GRADIENT = ".attn.k.bias"
_UPDATE_TOLERANCE = 2e-2


def check_training(model: CATSeg, case: Case, cfg: CfgNode) -> list[Comparison]:
    """One training step of a case, and its table of trainable parameters."""
    meta = case.meta
    batch, arrays = _training_batch(meta)
    optimizer = build_optimizer(cfg, model)
    with Recording(model, len(batch)) as recording:
        losses = model(batch)
        losses["loss_sem_seg"].backward()
    arrays |= recording.arrays(model, None)
    arrays["text_features"] = model.embed_vocabulary(Vocabulary.published(meta["class_names"]))
    official: dict[str, Any] = model.checkpoint_table().to_official(dict(model.named_parameters()))
    trained = {name: value for name, value in official.items() if value.requires_grad}
    arrays |= {f"grad:{name}": value.grad for name, value in trained.items()}
    rows = [
        case.compare(name, arrays[name], GRADIENT_TOLERANCE if "grad:" in name else 1e-4)
        for name in case.names
        if arrays.get(name) is not None
    ]
    rows.append(compare_number("loss_sem_seg", losses["loss_sem_seg"].item(), meta["loss"]["loss_sem_seg"]))
    case.told("mode", "ground_truth")
    if "loss_weight" in meta:
        rows.append(compare_number("loss_weight", 1.0, meta["loss_weight"]))
    rows += _check_gradients(case, trained)
    rows += _check_update(model, case, batch, trained, optimizer)
    return rows + check_counts(model, case, cfg)


def _check_gradients(case: Case, trained: dict[str, Any]) -> list[Comparison]:
    meta = case.meta
    norms = {name: value.grad.norm() for name, value in trained.items() if value.grad is not None}
    total = torch.stack(list(norms.values())).norm().item()
    rows = []
    for name, wanted in meta.get("grad_norms", {}).items():
        scale = total if name.endswith(_NO_GRADIENT) else None
        rows.append(compare_number(f"grad_norm {name}", norms[name].item(), wanted, GRADIENT_TOLERANCE, scale=scale))
    if "total_grad_norm_before_clipping" in meta:
        rows.append(compare_number("total_grad_norm", total, meta["total_grad_norm_before_clipping"]))
    if "params_with_zero_grad" in meta:
        zero = [name for name, norm in norms.items() if norm == 0]
        rows.append(compare_names("zero gradients", zero, meta["params_with_zero_grad"]))
    if "params_without_grad" in meta:
        rows.append(compare_names("no gradients", set(trained) - set(norms), meta["params_without_grad"]))
    return rows


def _check_update(
    model: CATSeg, case: Case, batch: list[dict[str, Any]], trained: dict[str, Any], optimizer: Any
) -> list[Comparison]:
    """How far one step moves the parameters, and the loss behind it."""
    meta, rows = case.meta, []
    before: dict[str, Tensor] = {name: value.detach().clone() for name, value in trained.items()}
    optimizer.step()
    for name, wanted in meta.get("update_norm_after_one_step", {}).items():
        moved = (trained[name].detach() - before[name]).norm().item()
        # Clipped gradients are as small as AdamW's eps, so that the update depends on their last digits.
        rows.append(compare_number(f"update_norm {name}", moved, wanted, tolerance=_UPDATE_TOLERANCE))
    if "loss_after_one_optimizer_step" in meta:
        with torch.no_grad():
            after = model(batch)["loss_sem_seg"].item()
        rows.append(compare_number("loss after one step", after, meta["loss_after_one_optimizer_step"], 1e-2))
    return rows


def _training_batch(meta: Any) -> tuple[list[dict[str, Any]], Arrays]:
    """Inputs of a training case, and its labels under the names of the stored arrays.

    They are cells of random classes: "integers(0, 9, size=(16,16)); >=8 -> 255 (ignore)".
    """
    text = meta["ground_truth"]
    high, *grid = map(int, found(r"integers\(0, (\d+), size=\((\d+), ?(\d+)\)\)", text, "the ground truth").groups())
    ignored = int(found(r">= ?(\d+) -> 255", text, "the ground truth")[1])
    batch, arrays = [], Arrays()
    for index, entry in enumerate(meta["images"]):
        height, width = entry["height"], entry["width"]
        cells = stream(entry["seed"], f"gt:{height}x{width}").integers(0, high, size=tuple(grid))
        cells[cells >= ignored] = 255
        labels = np.kron(cells, np.ones((height // grid[0], width // grid[1]), np.int64))
        image = to_tensor(picture(entry))
        batch.append({"image": image, "sem_seg": torch.as_tensor(labels), "vocabulary": meta["class_names"]})
        arrays[f"gt{index}"] = labels
    return batch, arrays


def check_counts(model: CATSeg, case: Case, cfg: CfgNode) -> list[Comparison]:
    """Trainable parameters with learning-rate multiplier and weight decay, under official names; their number."""
    case.told("optimizer", "clip", "class_names")
    sizes = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    counts = {
        "num_trainable_tensors": len(sizes),
        "num_trainable_params": sum(sizes),
        "num_params": sum(p.numel() for p in model.parameters()),
    }
    published = {name: case.meta[name] for name in counts if name in case.meta}
    rows = check_optimizer(model, case, cfg)
    if published:
        rows.append(compare_sets("parameter counts", {name: counts[name] for name in published}, published))
    return rows
