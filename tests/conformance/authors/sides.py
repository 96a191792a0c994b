"""The two sides as calls that can be timed: a picture to its label map, or a training step to its losses."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from twostage.inference.resampling import Size
from twostage.predictions.prediction import Prediction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One side with its words.

    Attributes:
        run: what is timed.
        result: the same with what is compared: `Picture` or `Step`.
    """

    run: Callable[[], Any]
    result: Callable[[], Picture | Step]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """What a picture gave: label map `[height, width]`, and scores `[C, height, width]` of which it is the best."""

    labels: Tensor
    scores: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What a training step gave: the sum of its losses, and the norm of all gradients."""

    loss: float
    gradient: float


def our_picture(model: Any, entry: dict[str, Any], output: Size, text: Any) -> Side:
    """Our label map of `entry`, with `text` as `embed_vocabulary` gives it."""

    def prediction() -> Prediction:
        return model.decode(model.encode(model.preprocess([entry])), text)

    @torch.inference_mode()
    def run() -> Tensor:
        return prediction().label_maps([output])[0]

    @torch.inference_mode()
    def result() -> Picture:
        found = prediction()
        return Picture(labels=found.label_maps([output])[0], scores=found.scores([output])[0])

    return Side(run=run, result=result)


def their_picture(model: nn.Module, entry: dict[str, Any]) -> Side:
    """Their label map of `entry`: the best of the scores, as Detectron2's evaluator takes it, or their own."""

    @torch.inference_mode()
    def result() -> Picture:
        found = model([entry])[0]
        scores, labels = found["sem_seg"], found.get("labels")
        return Picture(labels=scores.argmax(dim=0) if labels is None else labels, scores=scores)

    return Side(run=lambda: result().labels, result=result)


def training_side(model: nn.Module, batch: list[dict[str, Any]]) -> Side:
    """Forward and backward pass of a batch, ours or theirs, without the optimizer."""

    def losses() -> Tensor:
        # Points are drawn at random, on both sides in the same order. SED's code prints names of parameters in each step.
        torch.manual_seed(0)
        with EventStorage(0), contextlib.redirect_stdout(io.StringIO()):
            found: dict[str, Tensor] = model(batch)
        total = torch.stack([loss.reshape(()) for loss in found.values()]).sum()
        total.backward()
        return total

    def run() -> None:
        losses()
        model.zero_grad(set_to_none=True)

    def result() -> Step:
        loss = float(losses().detach())
        gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        model.zero_grad(set_to_none=True)
        return Step(loss=loss, gradient=float(torch.stack(gradients).norm()))

    return Side(run=run, result=result)
