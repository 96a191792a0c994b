"""A training step of ERR-Seg: loss, gradients, and what the optimizer makes of them."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

from conformance.case import Case
from conformance.comparison import Comparison
from conformance.dense_training import check_step, training_batch
from conformance.systems.errseg_recording import aggregator_arrays, logit_arrays, model_arrays, recording_model
from twostage.engine.optimizer import build_optimizer
from twostage.systems.one_stage.errseg.model import ERRSeg
from twostage.systems.one_stage.errseg.selection import present_classes, select_classes
from twostage.vocabulary import Vocabulary

# Gradients that are nearly zero are compared by their difference: their relative error is rounding. What adds the same to all
# keys of a query (the biases of keys and of the norm before them) has none at all: 1e-11 is stored.
_TINY_GRADIENT = 1e-6


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
    losses["loss_sem_seg"].backward()
    with torch.no_grad():
        present = [present_classes(label, len(text)) for label in labels]
        kept = select_classes(model.costs(encoded, text).fine, model.slots, present)
        arrays = model_arrays(model, encoded, text, kept) | aggregator_arrays(recorded)
        arrays |= logit_arrays(recorded["head"], kept, len(text))
    return check_step(model, case, cfg, batch, optimizer, losses, arrays, tiny=_TINY_GRADIENT)
