"""A training step without its optimiser as a call that can be timed: forward and backward pass on made pictures."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from twostage.benchmark.names import words
from twostage.benchmark.steps import Steps
from twostage.inference.resampling import Size
from twostage.recomputation import recompute_activations

# Labels come in squares of so many pixels, of which a picture holds some twenty classes, like those of COCO-Stuff.
_SQUARE = 64
_MOST_PRESENT = 20


def training_steps(model: Any, size: Size, batch: int, classes: int, *, recompute: bool) -> Steps:
    """Forward and backward pass of `batch` pictures as the one step "whole", run once before.

    Args:
        size: of the pictures, a crop of training.
        classes: in the training vocabulary.
        recompute: as `SOLVER.ACTIVATION_CHECKPOINTING` says.
    """
    model.train()
    if recompute:
        recompute_activations(model)
    generator = torch.Generator().manual_seed(0)
    records = [training_record(size, words(classes), generator) for _ in range(batch)]

    def whole() -> None:
        with EventStorage(0):
            losses: dict[str, torch.Tensor] = model(records)
        torch.stack([loss.reshape(()) for loss in losses.values()]).sum().backward()
        model.zero_grad(set_to_none=True)

    whole()
    return Steps(runs={"whole": whole}, text_seconds=0.0)


def training_record(size: Size, names: list[str], generator: torch.Generator) -> dict[str, Any]:
    """A picture of noise with labels and masks, as the mappers of training give it.

    Args:
        names: the training vocabulary.
    """
    height, width = size
    squares = torch.randint(0, len(names), (-(-height // _SQUARE), -(-width // _SQUARE)), generator=generator)
    labels = squares.repeat_interleave(_SQUARE, 0).repeat_interleave(_SQUARE, 1)[:height, :width]
    present = labels.unique()[:_MOST_PRESENT]
    instances = Instances((height, width))
    instances.gt_classes = present
    instances.gt_masks = torch.stack([labels == label for label in present])
    return {
        "image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8),
        "sem_seg": labels,
        "instances": instances,
        "vocabulary": names,
    }
