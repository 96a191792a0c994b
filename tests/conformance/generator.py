"""What the reference cases of Mask2Former and of the systems on its generator share: intermediates, training batches whose
labels are stripes, random points by name, and the comparison of a training step."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn

from conformance.case import Case, Comparison, compare_sets
from conformance.seeded import seeded_image, stream
from twostage.checkpoint.renaming import CheckpointTable
from twostage.engine.optimizer import parameter_settings
from twostage.proposals.deformable_attention import reference_points
from twostage.proposals.generator import MaskGenerator
from twostage.proposals.losses import MaskLosses
from twostage.proposals.masked_decoder import MaskedDecoder
from twostage.proposals.matching import HungarianMatcher
from twostage.proposals.position import sine_position_code

Arrays = dict[str, Any]
# Gradients pass through a choice of points that can flip between near ties.
_GRADIENT_TOLERANCE = 2e-3


@contextlib.contextmanager
def hooked(hooks: Sequence[tuple[nn.Module, Callable[[Any, Any], None]]]) -> Iterator[None]:
    """Call `hook(inputs, output)` after each forward pass of `module`, for every pair (module, hook)."""
    handles = [m.register_forward_hook(lambda _m, args, out, hook=hook: hook(args, out)) for m, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def keep(arrays: Arrays, name: str, change: Callable[[Any], Any] = lambda x: x) -> Callable[[Any, Any], None]:
    """A hook that keeps a module's output under `name`."""
    return lambda _args, out: arrays.__setitem__(name, change(out))


@contextlib.contextmanager
def recording_generator(
    generator: MaskGenerator, class_logits: Callable[[Tensor], Tensor], arrays: Arrays
) -> Iterator[None]:
    """Keep the generator's intermediates of one inference pass in `arrays`, under the names of the cases.

    Args:
        class_logits: from queries `[B, Q, C]` to class logits, for the predictions after every layer.
    """
    pixels, decoder = generator.pixel_decoder, generator.decoder
    first: Any = pixels.layers[0]
    queries_first = lambda x: x.transpose(0, 1)  # noqa: E731
    hooks: list[tuple[nn.Module, Callable[[Any, Any], None]]] = [
        (generator.backbone, lambda _a, out: arrays.update({f"backbone_{name}": x for name, x in out.items()})),
        *((m, keep(arrays, f"pix_input_proj_{i}")) for i, m in enumerate(pixels.input_proj)),
        (first.attention.sampling_offsets, keep(arrays, "enc0_sampling_offsets")),
        (first.attention.attention_weights, keep(arrays, "enc0_attention_logits")),
        (first.attention.output_proj, lambda args, _o: arrays.update(enc0_deform_core=args[0])),
        (first.attention, lambda args, out: arrays.update(enc0_self_attn=out, **_positions(args[2]))),
        *((m, keep(arrays, f"enc{i}_out")) for i, m in enumerate(pixels.layers)),
        (pixels.lateral, keep(arrays, "fpn_lateral", torch.clone)),
        (pixels.output, keep(arrays, "fpn_out")),
        (pixels.mask_features, keep(arrays, "mask_features")),
        (decoder.get_submodule("layers.0.cross_attention"), keep(arrays, "dec0_cross_attn", queries_first)),
        (decoder.get_submodule("layers.0.self_attention"), keep(arrays, "dec0_self_attn", queries_first)),
        *((m, keep(arrays, f"dec{i}_out", queries_first)) for i, m in enumerate(decoder.layers)),
    ]
    attention_mask = MaskedDecoder.attention_mask
    stages: list[tuple[Tensor, Tensor]] = []

    def record_mask(self: MaskedDecoder, queries: Tensor, *args: Any) -> Tensor:
        allowed = attention_mask(self, queries, *args)
        stages.append((queries, ~allowed[0]))
        return allowed

    with hooked(hooks), mock.patch.object(MaskedDecoder, "attention_mask", record_mask):
        yield
    for index, (queries, _) in enumerate(stages):
        arrays[f"aux{index}_pred_logits"] = class_logits(queries)
        arrays[f"aux{index}_pred_masks"] = decoder._with_masks(queries, arrays["mask_features"]).mask_logits
    arrays["attn_mask_true_fraction"] = np.array([float(masked.float().mean()) for _, masked in stages])
    for index in (0, len(stages) - 1):
        arrays[f"attn_mask_{index}"] = stages[index][1].float()


def _positions(grids: Sequence[tuple[int, int]]) -> Arrays:
    finest = grids[-1]
    code = sine_position_code(finest, 256, torch.device("cpu"))
    return {
        "enc_reference_points": reference_points(grids, torch.device("cpu")),
        "pix_pos_res3": code.T.unflatten(1, finest)[None],
    }


def striped_batch(meta: Mapping[str, Any], **common: Any) -> list[dict[str, Any]]:
    """Inputs of a training case: seeded images, and labels by the formula that the case gives in words.

    Args:
        common: further entries of every image.
    """
    text = meta["ground_truth"]
    high, double, wide, factor, offset = _numbers(r"y//(\d+) \+ (\d+)\*\(x//(\d+)\)\) % k\)\*(\d+) \+ (\d+)", text)
    counts = [int(k) for k in re.findall(r"k=(\d+)", text)]
    (ignored,) = _numbers(r"y<(\d+)", text)
    batch = []
    for entry, count in zip(meta["images"], counts, strict=True):
        height, width = entry["height"], entry["width"]
        y, x = np.mgrid[:height, :width]
        labels = ((y // high + double * (x // wide)) % count) * factor + offset
        labels[:ignored] = 255
        classes = np.unique(labels[labels != 255])
        instances = Instances((height, width))
        instances.gt_classes = torch.as_tensor(classes, dtype=torch.int64)
        instances.gt_masks = torch.as_tensor(labels == classes[:, None, None])
        image = torch.as_tensor(seeded_image(height, width, entry["seed"]).transpose(2, 0, 1).copy())
        batch.append({"image": image, "instances": instances, **common})
    return batch


def _numbers(pattern: str, text: str) -> tuple[int, ...]:
    found = re.search(pattern, text)
    assert found is not None, f"the case's ground truth reads otherwise: {text}"
    return tuple(int(n) for n in found.groups())


@contextlib.contextmanager
def _named_points(meta: Mapping[str, Any], criterion: MaskLosses, names: Sequence[str]) -> Iterator[None]:
    """`torch.rand` draws the points that the case names: of layer `names[0]` first, within it for matching first."""
    points, images = criterion.num_points, len(meta["images"])
    calls = 0

    def rand(*size: Any, **_: Any) -> Tensor:
        nonlocal calls
        shape = tuple(size[0]) if isinstance(size[0], tuple | list | torch.Size) else size
        if shape[1] == points:
            name = f"match:{names[calls // images]}:{calls % images}"
            calls += 1
        else:
            kind = "oversample" if shape[1] == int(points * criterion.oversample_ratio) else "random"
            name = f"{kind}:{names[(calls - 1) // images]}"
        return torch.from_numpy(stream(meta["weight_seed"], f"points:{name}").random(shape, dtype=np.float32))

    with mock.patch("torch.rand", rand):
        yield


def check_training(
    model: Any,
    case: Case,
    cfg: CfgNode,
    batch: list[dict[str, Any]],
    trainable: Mapping[str, Sequence[float]],
    unmade: str = "-",
) -> list[Comparison]:
    """One training step: predictions, matches, losses, gradients, and how every trainable parameter is optimized.

    Args:
        trainable: official name -> (learning-rate multiplier, weight decay).
        unmade: arrays whose names begin so are not made here.
    """
    meta = case.meta
    arrays: Arrays = {}
    layers = ["final", *(str(i) for i in range(cfg.MODEL.MASK2FORMER.DECODER_LAYERS))]
    call, losses = HungarianMatcher.__call__, MaskLosses.__call__
    matched: list[Tensor] = []

    def record_match(self: HungarianMatcher, *args: Any) -> tuple[Tensor, Tensor]:
        pair = call(self, *args)
        arrays[f"match_{layers[len(matched) // len(batch)]}_{len(matched) % len(batch)}"] = torch.stack(pair)
        matched.append(pair[0])
        return pair

    def record_losses(self: MaskLosses, outputs: Any, targets: Any) -> Any:
        for name, (class_logits, mask_logits) in zip(("", "aux0_", "aux1_"), outputs, strict=False):
            arrays[f"{name}pred_logits"], arrays[f"{name}pred_masks"] = class_logits, mask_logits
        return losses(self, outputs, targets)

    with (
        _named_points(meta, model.criterion, layers),
        mock.patch.object(HungarianMatcher, "__call__", record_match),
        mock.patch.object(MaskLosses, "__call__", record_losses),
    ):
        step = model(batch)
    total = torch.stack(list(step.values())).sum()
    total.backward()
    arrays["points_match_final_0_first8"] = stream(meta["weight_seed"], "points:match:final:0").random(
        (1, model.criterion.num_points, 2), dtype=np.float32
    )[0, :8]
    rows = [case.compare(name, arrays[name]) for name in case.names if not name.startswith(unmade)]
    rows += [case.compare_number(name, step[name].item(), wanted) for name, wanted in meta["losses_weighted"].items()]
    rows.append(case.compare_number("total_weighted", total.item(), meta["total_weighted"]))
    return rows + _check_parameters(model, case, cfg, trainable)


def _check_parameters(
    model: Any, case: Case, cfg: CfgNode, trainable: Mapping[str, Sequence[float]]
) -> list[Comparison]:
    table: CheckpointTable = model.checkpoint_table()
    gradients = table.to_official({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    rows = [
        case.compare_number(f"grad_norm {name}", gradients[name].norm().item(), wanted, tolerance=_GRADIENT_TOLERANCE)
        for name, wanted in case.meta["grad_norms"].items()
    ]
    if "grad_norm_total" in case.meta:
        norm = torch.stack([g.norm() for g in gradients.values()]).norm().item()
        rows.append(case.compare_number("grad_norm_total", norm, case.meta["grad_norm_total"], _GRADIENT_TOLERANCE))
    ours = {}
    for name, setting in parameter_settings(cfg, model).items():
        # The table renames dictionaries; one entry at a time tells which name belongs to which.
        (official,) = table.to_official({name: torch.zeros(())})
        ours[official] = (setting.lr / cfg.SOLVER.BASE_LR, setting.weight_decay)
    rows.append(compare_sets("trainable parameters", ours, {n: (v[0], v[1]) for n, v in trainable.items()}))
    without = sorted(set(ours) - set(gradients))
    rows.append(
        compare_sets(
            "trainable without gradient",
            dict.fromkeys(without, True),
            dict.fromkeys(case.meta["trainable_without_gradient"], True),
        )
    )
    return rows
