"""A training step of the systems that learn masks by set prediction: named random points, losses, matches, gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import GRADIENT_TOLERANCE, RELATIVE_TOLERANCE, Comparison, compare_number
from conformance.optimizer import check_gradients, check_losses, check_optimizer, official_gradients
from conformance.recording import Arrays, after, patched
from conformance.seeded import stream
from twostage.proposals.losses import MaskLosses
from twostage.proposals.matching import HungarianMatcher

Record = tuple[Any, str, Any]


@contextlib.contextmanager
def random_numbers(name_of: Callable[[tuple[int, ...]], str], seed: int) -> Iterator[None]:
    """`torch.rand` draws from the stream that `name_of` gives for each wanted size, in order."""

    def rand(*size: Any, **_: Any) -> Tensor:
        shape = tuple(size[0]) if isinstance(size[0], tuple | list | torch.Size) else size
        return torch.from_numpy(stream(seed, name_of(shape)).random(shape, dtype=np.float32))

    with patched((torch, "rand", rand)):
        yield


def point_names(criterion: MaskLosses, layers: Sequence[str], images: int) -> Callable[[tuple[int, ...]], str]:
    """The names that cases give to random points: of layer `layers[0]` first, within it for matching first."""
    calls = 0

    def name_of(shape: tuple[int, ...]) -> str:
        nonlocal calls
        if shape[1] == criterion.num_points:
            name = f"match:{layers[calls // images]}:{calls % images}"
            calls += 1
            return f"points:{name}"
        candidates = int(criterion.num_points * criterion.oversample_ratio)
        kind = "oversample" if shape[1] == candidates else "random"
        return f"points:{kind}:{layers[(calls - 1) // images]}"

    return name_of


def matches_recorded(record: Callable[[int, tuple[Tensor, Tensor]], None]) -> Record:
    """`record(count, (queries, targets))` after each match, counted from 0 over layers and images."""
    count = 0

    def observe(pair: tuple[Tensor, Tensor], *_: Any) -> None:
        nonlocal count
        record(count, pair)
        count += 1

    return after(HungarianMatcher, "__call__", observe)


def outputs_recorded(arrays: Arrays, names: Sequence[tuple[str, str]]) -> Record:
    """Predictions that the losses see: the final ones under `names[0]` (class logits, mask logits), then auxiliary ones."""

    def observe(_losses: Any, _self: MaskLosses, outputs: Any, _targets: Any) -> None:
        for (class_name, mask_name), (class_logits, mask_logits) in zip(names, outputs, strict=False):
            arrays[class_name], arrays[mask_name] = class_logits, mask_logits

    return after(MaskLosses, "__call__", observe)


def check_training(
    model: Any,
    case: Case,
    cfg: CfgNode,
    batch: list[dict[str, Any]],
    *,
    own_losses: Mapping[str, tuple[str, float]] | None = None,
    own_arrays: Callable[[], Arrays] = dict,
) -> list[Comparison]:
    """One training step of a system on Mask2Former's generator.

    Predictions, matches, losses, gradients, and how every trainable parameter is optimized. Layers that give no loss here
    have no matches; `Case.left_out` names them.

    Args:
        own_losses: of the system beside Mask2Former's: their names in the cases -> ours, and their weights.
        own_arrays: what else the step kept, asked for when it is done.
    """
    meta, arrays = case.meta, Arrays()
    depth = cfg.MODEL.MASK2FORMER.DECODER_LAYERS
    layers = ["final", *(str(i) for i in range(depth))]

    def record_match(count: int, pair: tuple[Tensor, Tensor]) -> None:
        arrays[f"match_{layers[count // len(batch)]}_{count % len(batch)}"] = torch.stack(pair)

    outputs = [(f"{prefix}pred_logits", f"{prefix}pred_masks") for prefix in ("", *(f"aux{i}_" for i in range(depth)))]
    names = point_names(model.criterion, layers, len(batch))
    case.told("points", "importance_sampling", "num_masks")
    with (
        random_numbers(names, meta["weight_seed"]),
        patched(matches_recorded(record_match), outputs_recorded(arrays, outputs)),
    ):
        losses = model(batch)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    own = own_losses or {}
    theirs = {ours: name for name, (ours, _) in own.items()}
    losses = {theirs.get(name, name): loss for name, loss in losses.items()}
    for layer in layers:
        for image in range(len(batch)):
            points = stream(meta["weight_seed"], f"points:match:{layer}:{image}")
            drawn = points.random((1, model.criterion.num_points, 2), dtype=np.float32)
            arrays[f"points_match_{layer}_{image}_first8"] = drawn[0, :8]
    return [
        *compare_step(case, arrays | own_arrays() | gradient_arrays(model)),
        *check_loss_fields(
            case, losses, total, loss_weights(cfg) | {name: weight for name, (_, weight) in own.items()}
        ),
        *check_gradients(
            model,
            case,
            norms=meta.get("grad_norms", {}),
            total="grad_norm_total",
            without="trainable_without_gradient",
        ),
        *check_optimizer(model, case, cfg),
    ]


def gradient_arrays(model: Any) -> Arrays:
    """Gradients under the names that cases give them."""
    return {f"grad:{name}": value for name, value in official_gradients(model).items()}


def compare_step(
    case: Case, arrays: Arrays, *, tiny: float = 0.0, scales: Mapping[str, float] | None = None
) -> list[Comparison]:
    """What a case stores of a training step, gradients at their own tolerance.

    Args:
        tiny: gradients whose greatest value is below it are compared relative to it.
        scales: official name -> what its gradient is compared relative to, where that is more.
    """

    def compare(name: str) -> Comparison:
        if not name.startswith("grad:"):
            return case.compare(name, arrays[name], max(RELATIVE_TOLERANCE, case.own_spread(name)))
        stored = case.arrays[name if name in case.arrays else f"{name}__val"]
        least = max(tiny, (scales or {}).get(name.removeprefix("grad:"), 0.0))
        return case.compare(name, arrays[name], GRADIENT_TOLERANCE, scale=max(least, float(abs(stored).max())))

    return [compare(name) for name in case.names if arrays.get(name) is not None]


def loss_weights(cfg: CfgNode) -> dict[str, float]:
    """Of "ce", "mask" and "dice"."""
    keys = cfg.MODEL.MASK_LOSS
    return {"ce": keys.CLASS_WEIGHT, "mask": keys.MASK_WEIGHT, "dice": keys.DICE_WEIGHT}


def check_loss_fields(
    case: Case, losses: dict[str, Tensor], total: Tensor, weights: dict[str, float], **tolerance: float
) -> list[Comparison]:
    """Weighted losses, unweighted ones, their weights and their sum, as far as the case has them.

    Args:
        weights: of "ce", "mask" and "dice", and of a system's own losses by their whole names.
    """
    meta = case.meta
    factors = {name: weights[name if name in weights else name.split("_")[1]] for name in losses}
    rows = check_losses(losses, meta["losses_weighted"], **tolerance) if "losses_weighted" in meta else []
    for field in ("losses_unweighted", "losses_raw"):
        plain = {f"{name} unweighted": loss / factors[name] for name, loss in losses.items() if factors[name]}
        for name, wanted in meta.get(field, {}).items():
            # Layers that give no loss here have none.
            if f"{name} unweighted" in plain:
                rows.append(
                    compare_number(f"{name} unweighted", plain[f"{name} unweighted"].item(), wanted, **tolerance)
                )
    for name, wanted in meta.get("loss_weights", {}).items():
        if name in factors:
            rows.append(compare_number(f"weight of {name}", factors[name], wanted))
    for field in ("total_weighted", "total_loss", "total"):
        if field in meta:
            rows.append(compare_number(field, total.item(), meta[field], **tolerance))
    return rows
