"""A training step of SAN, whose random numbers are named after their sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal, compare_number
from conformance.inputs import instance_entry, picture, size_of
from conformance.optimizer import check_gradients, check_optimizer
from conformance.recording import Arrays, after, patched
from conformance.training import check_loss_fields, loss_weights, matches_recorded, outputs_recorded, random_numbers
from twostage.proposals.matching import HungarianMatcher
from twostage.systems.two_stage.san.model import SAN


def check_training(model: SAN, case: Case, cfg: CfgNode) -> list[Comparison]:
    """Predictions, costs, matches, losses and gradients of a step, and how every parameter is optimized."""
    meta = case.meta
    batch, arrays = _training_batch(meta)
    sizes: list[list[int]] = []

    def name_of(shape: tuple[int, ...]) -> str:
        sizes.append(list(shape))
        return f"rand:{'x'.join(map(str, shape))}"

    with random_numbers(name_of, meta["rand_seed"]), _recording_losses(arrays):
        losses = model(batch)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
    rows = [
        case.compare(name, arrays[name], tolerance=5e-4 if "cost" in name else 1e-4)
        for name in case.names
        if name in arrays
    ]
    if "rand_sizes" in meta:
        rows.append(compare_equal("sizes of random numbers", sizes, meta["rand_sizes"]))
    if "num_masks" in meta:
        masks = sum(len(entry["instances"].gt_classes) for entry in batch)
        rows.append(compare_number("num_masks", masks, meta["num_masks"]))
    case.told("randomness", "mode", "order_of_matching", "inputs", "ground_truth", "num_classes")
    rows += check_loss_fields(case, losses, total, loss_weights(cfg))
    norms = meta.get("grad_norm", {})
    rows += check_gradients(model, case, norms=norms, total="grad_norm_total", without="trainable_without_grad")
    return rows + check_optimizer(model, case, cfg)


def _training_batch(meta: Any) -> tuple[list[dict[str, Any]], Arrays]:
    """Inputs of a training case, and its label maps under the names of the stored arrays."""
    batch, arrays = [], Arrays()
    for index, entry in enumerate(meta["images"]):
        labels = np.full(size_of(entry["hw"]), 255, np.uint8)
        for label, top, left, bottom, right in entry["rects"]:
            labels[top:bottom, left:right] = label
        arrays[f"label_map_{index}"] = labels
        batch.append(instance_entry(picture(entry), labels, vocabulary=meta["class_names"]))
    return batch, arrays


@contextlib.contextmanager
def _recording_losses(arrays: Arrays) -> Iterator[None]:
    """Keep predictions, costs and matches of a training step in `arrays`."""
    costs: list[Tensor] = []

    def keep_cost(out: Tensor, *_: Any) -> None:
        arrays[f"cost_{len(costs)}"] = out
        costs.append(out)

    def keep_match(count: int, pair: tuple[Tensor, Tensor]) -> None:
        arrays[f"match_{count}_query"], arrays[f"match_{count}_target"] = pair

    outputs = [(f"pred_logits_{name}", f"pred_masks_{name}") for name in ("final", "aux0", "aux1", "aux2")]
    with patched(
        after(HungarianMatcher, "cost", keep_cost), matches_recorded(keep_match), outputs_recorded(arrays, outputs)
    ):
        yield
