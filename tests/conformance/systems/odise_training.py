"""Reference cases of an ODISE training step: losses, matches, gradients, optimizer settings."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_number, compare_sets
from conformance.inputs import striped_batch
from conformance.optimizer import check_gradients, check_losses, stored_table, trainable_table
from conformance.recording import Arrays, after, hooked, patched
from conformance.systems.odise import seeded_model
from conformance.training import loss_weights, matches_recorded, outputs_recorded, point_names, random_numbers
from twostage.data.views import dataset_view
from twostage.systems.two_stage.odise.features import NAMES
from twostage.systems.two_stage.odise.heads import MaskEmbedding, TextHead
from twostage.systems.two_stage.odise.model import ODISE
from twostage.vocabulary import Vocabulary


def check_training_case(case: Case) -> list[Comparison]:
    """Compare every array and figure of a training case."""
    meta, arrays = case.meta, Arrays()
    model, cfg = seeded_model(case, meta["variant"])
    batch = _batch(case, Vocabulary.of(dataset_view(cfg, cfg.DATASETS.TRAIN[0])))
    depth = cfg.MODEL.MASK2FORMER.DECODER_LAYERS
    layers = ["final", *(str(i) for i in range(depth))]

    def record_match(count: int, pair: tuple[Tensor, Tensor]) -> None:
        arrays[f"match_{layers[count // len(batch)]}_{count % len(batch)}"] = torch.stack(pair)

    outputs = [(f"{prefix}pred_logits", f"{prefix}pred_masks") for prefix in ("", *(f"aux{i}_" for i in range(depth)))]
    model.train()
    case.told("points", "grad_norm_of_frozen_unet", "grad_norm_total_with_unet", "class_names")
    with (
        hooked([(model.features, lambda _a, out: arrays.update(_levels(out)))]),
        random_numbers(point_names(model.criterion, layers, len(batch)), meta["weight_seed"]),
        patched(matches_recorded(record_match), outputs_recorded(arrays, outputs), *_heads_recorded(arrays)),
    ):
        losses = model(batch)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    norms = {"norms": meta["grad_norms"], "total": "grad_norm_total", "without": "trainable_without_gradient"}
    return [
        *case.compare_all(arrays),
        *_check_losses(case, losses, total, cfg),
        *check_gradients(model, case, **norms),
        *check_trainable(model, case, cfg),
    ]


def check_trainable(model: ODISE, case: Case, cfg: CfgNode) -> list[Comparison]:
    """Trainable parameters with multiplier and decay. The table is of the full-width model: which projections have a
    shortcut depends on the width, so shortcuts are compared only there."""
    stored = stored_table(case)
    if stored is None:
        return case.skip("the optimizer's table, which is not at hand")
    narrow = bool(case.meta.get("narrow"))
    ours, wanted = (
        {name: entry for name, entry in table.items() if not (narrow and ".shortcut." in name)}
        for table in (trainable_table(model, model.checkpoint_table(), cfg), stored[0])
    )
    return [
        compare_sets("trainable parameters", ours, wanted),
        compare_number("base_lr", cfg.SOLVER.BASE_LR, stored[1]["base_lr"]),
    ]


def _batch(case: Case, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Striped pictures, as for Mask2Former, with the words of their captions where the case has them."""
    meta = case.meta
    # The number of stripes is told once for all images.
    text = meta["ground_truth"].replace("with k = 5 - image index", _stripes(len(meta["images"])))
    batch = striped_batch({"ground_truth": text, "images": meta["images"]}, vocabulary=vocabulary)
    if "words" in meta:
        for entry, words in zip(batch, meta["words"], strict=True):
            entry["words"] = words
    return batch


def _stripes(images: int) -> str:
    return "with " + " and ".join(f"k={5 - index} for image {index}" for index in range(images))


def _levels(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """The feature maps by the logarithm of their stride."""
    return {f"s{stride.bit_length() - 1}": maps[name] for stride, name in NAMES.items()}


def _heads_recorded(arrays: Arrays) -> list[tuple[Any, str, Any]]:
    """Mask embeddings of the final prediction, and texts in their space."""

    def record_embedding(embeddings: Tensor, *_: Any) -> None:
        # The final prediction comes first.
        arrays.setdefault("mask_embed", embeddings)

    def record_text(_rows: Tensor, head: TextHead, names: Tensor) -> None:
        projected = head.text_proj(names)
        if head.null_embed is None:
            # Eight words of each picture.
            arrays["word_embed_projected"] = projected.unflatten(0, (-1, 8))
            return
        arrays["text_embed_projected"] = projected
        arrays["null_embed_projected"] = head.text_proj(head.null_embed)

    return [after(MaskEmbedding, "forward", record_embedding), after(TextHead, "forward", record_text)]


def _check_losses(case: Case, losses: dict[str, Tensor], total: Tensor, cfg: CfgNode) -> list[Comparison]:
    """As for Mask2Former, and the grounding losses, whose weight is a key of its own."""
    weights = {**loss_weights(cfg), "word": cfg.MODEL.ODISE.GROUNDING_WEIGHT}
    factors = {name: weights["word" if "word" in name else name.split("_")[1]] for name in losses}
    rows = check_losses(losses, case.meta["losses_weighted"])
    for name, wanted in case.meta["losses_unweighted"].items():
        rows.append(compare_number(f"{name} unweighted", (losses[name] / factors[name]).item(), wanted))
    for name, wanted in case.meta["loss_weights"].items():
        rows.append(compare_number(f"weight of {name}", factors[name], wanted))
    rows.append(compare_number("total_weighted", total.item(), case.meta["total_weighted"]))
    return rows
