"""A training step of Mask-Adapter: named random draws, the masks it learns from, losses and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal, compare_number
from conformance.inputs import striped_batch
from conformance.optimizer import check_gradients, check_losses, check_optimizer
from conformance.recording import Arrays, after, patched
from conformance.seeded import stream
from conformance.systems.mask_adapter_recording import encoded_arrays, recording_adapter
from conformance.training import compare_step, gradient_arrays
from twostage.systems.two_stage.heads import EncodedMasks
from twostage.systems.two_stage.mask_adapter import mixing
from twostage.systems.two_stage.mask_adapter.mixing import Pairs
from twostage.systems.two_stage.mask_adapter.model import MaskAdapter
from twostage.vocabulary import Vocabulary


class _Draws:
    """`torch.randperm` and `torch.rand` in the words of the cases; both are counted apart, over the whole step."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.permutations = self.choices = 0

    def randperm(self, count: int) -> Tensor:
        numbers = stream(self.seed, f"perm:{self.permutations}").random(count, dtype=np.float32)
        self.permutations += 1
        return torch.from_numpy(np.argsort(numbers, kind="stable"))

    def rand(self, count: int) -> Tensor:
        names = [f"choice:{self.choices + i}" for i in range(count)]
        self.choices += count
        return torch.tensor([float(stream(self.seed, name).random(1, dtype=np.float32)[0]) for name in names])


def check_training(model: MaskAdapter, case: Case, cfg: CfgNode) -> list[Comparison]:
    """Masks, intermediates, losses, gradients and trainable parameters of one step."""
    meta, arrays = case.meta, Arrays()
    vocabulary = Vocabulary.published(meta["class_names"])
    batch = _batch(meta, vocabulary)
    rows = [
        compare_equal("ground truths", [len(entry["instances"]) for entry in batch], meta["truths_per_image"]),
    ]
    draws = _Draws(meta["weight_seed"])
    case.told("random_draws", "gradient_zero_but_for_rounding", "num_templates")
    kept: dict[str, Any] = {"pairs": [], "overlaps": []}
    records = (
        (torch, "randperm", draws.randperm),
        (torch, "rand", draws.rand),
        # The published step fills every place, also those that are empty for all images.
        (mixing, "most", lambda _drawn: model.mixing.truths),
        after(mixing, "stacked", lambda out, *_: arrays.update(truth_labels=out[1])),
        after(mixing, "overlaps", lambda out, *_: kept["overlaps"].append(out)),
        after(mixing.Mixing, "draw_pairs", lambda out, *_: kept["pairs"].append(out)),
        after(MaskAdapter, "encode", lambda out, *_: kept.update(encoded=out)),
        after(MaskAdapter, "adapted_logits", lambda out, *_: arrays.update(out_vocab_logits=out)),
    )
    with patched(*records), recording_adapter(model, arrays):
        losses = model(batch)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    with torch.no_grad():
        arrays |= _masks_arrays(model, kept["encoded"], kept["pairs"], kept["overlaps"], vocabulary)
    rows += compare_step(case, arrays | gradient_arrays(model))
    rows += _check_losses(case, losses, total, cfg)
    rows.append(compare_equal("permutations drawn", draws.permutations, len(meta["permutations"])))
    rows.append(compare_equal("choices drawn", draws.choices, len(meta["choices"])))
    return [
        *rows,
        *check_gradients(
            model, case, norms=meta["grad_norms"], total="grad_norm_total", without="trainable_without_gradient"
        ),
        *check_optimizer(model, case, cfg),
    ]


def _batch(meta: Mapping[str, Any], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """One formula an image, `... with k=5; rows y<8 are ignored`."""
    entries = []
    for text, image in zip(meta["ground_truth"], meta["images"], strict=True):
        one = {"images": [image], "ground_truth": _as_striped(text)}
        entries += striped_batch(one, vocabulary=vocabulary)
    return entries


def _as_striped(text: str) -> str:
    """In the words of Mask2Former's cases."""
    return text.replace(" are ignored", " are 255").replace("; rows", " for image 0; rows")


def _masks_arrays(
    model: MaskAdapter,
    encoded: EncodedMasks,
    pairs: Sequence[Pairs],
    overlaps: Sequence[Tensor],
    vocabulary: Vocabulary,
) -> Arrays:
    words = model.embed_vocabulary(vocabulary)
    arrays = encoded_arrays(model, encoded, words, model.warmup_void or model.void_embedding)
    arrays |= {f"iou_{index}": overlap for index, overlap in enumerate(overlaps)}
    if encoded.outputs:
        mask_logits, embeddings = encoded.outputs[0]
        arrays |= {
            "pred_masks": mask_logits,
            "pred_logits": model.class_logits(embeddings, words, model.logit_scale),
        }
    if pairs:
        fields = {"pair_predicted": "logits", "pair_truth": "truths", "pair_labels": "labels"}
        arrays |= {name: torch.stack([getattr(p, field) for p in pairs]) for name, field in fields.items()}
    return arrays


def _check_losses(case: Case, losses: dict[str, Tensor], total: Tensor, cfg: CfgNode) -> list[Comparison]:
    meta, keys = case.meta, cfg.MODEL.MASK_ADAPTER
    weights = {"loss_ce": keys.CLASS_WEIGHT, "loss_cosine": keys.COSINE_WEIGHT}
    unweighted = {name: loss / weights[name] for name, loss in losses.items()}
    return [
        *check_losses(losses, meta["losses_weighted"]),
        *check_losses(unweighted, meta["losses_unweighted"]),
        compare_number("total_weighted", total.item(), meta["total_weighted"]),
    ]
