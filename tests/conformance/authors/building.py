"""Both models of a comparison, on one set of weights and of words; a side that does not run is freed."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from conformance.authors.clone import opened
from conformance.authors.contract import Authors, Request
from conformance.authors.copying import copy_weights, seed_weights
from conformance.authors.feeding import entry, random_text, records
from conformance.authors.sides import Side, our_picture, their_picture, training_side
from twostage.benchmark.names import words
from twostage.inference.resampling import Size
from twostage.recomputation import recompute_activations
from twostage.systems.building import build_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Models:
    """What runs.

    Attributes:
        ours, theirs: None for one that does not run.
        texts: number of classes -> what our `embed_vocabulary` gives for so many words.
    """

    authors: Authors
    ours: Any
    theirs: Any
    texts: dict[int, Any]

    def pictures(self, classes: int, size: Size, output: Size) -> dict[str, Side]:
        """A picture of `size` to a label map of `output`, for each side that runs."""
        fed = entry(size, output, self._told(classes))
        return {
            **({"ours": our_picture(self.ours, fed, output, self.texts[classes])} if self.ours else {}),
            **({"theirs": their_picture(self.theirs, fed)} if self.theirs else {}),
        }

    def steps(self, classes: int, size: Size, batch: int) -> dict[str, Side]:
        """A training step of `batch` pictures of `size`, for each side that runs."""
        fed = records(size, batch, self._told(classes))
        models = {"ours": self.ours, "theirs": self.theirs}
        return {name: training_side(model, fed) for name, model in models.items() if model is not None}

    def _told(self, classes: int) -> list[str]:
        names = words(classes)
        if self.theirs is not None:
            self.authors.set_words(self.theirs, names, self.texts[classes])
        return names


def build(
    cfg: CfgNode,
    authors: Authors,
    *,
    classes: Sequence[int],
    training: bool,
    alone: str | None,
    code: Path,
    packages: Path | None,
) -> Models:
    """Our model of `cfg` and the authors', or the one that `alone` names ("ours" or "theirs").

    Args:
        classes: numbers of words that are asked for; one, where a training step is.
        code, packages: see `opened`; not read where ours runs alone.

    Raises:
        UserError: as `opened` and `copy_weights`, or settings that the comparison does not know of theirs.
    """
    torch.manual_seed(0)
    ours = build_model(cfg).train(training)
    table: Any = ours.checkpoint_table()
    official = seed_weights(ours, table)
    texts = {count: random_text(ours, words(count)) for count in classes}
    theirs = None
    if alone != "ours":
        request = Request(code=code, ours=ours, cfg=cfg, training_classes=classes[0] if training else None)
        # Of torch, timm and others, for what has changed since their code was written.
        warnings.simplefilter("ignore")
        with opened(authors, code, packages):
            theirs = authors.build(request).train(training)
        copy_weights(official, authors.weights(theirs), constants=table.dropped)
    if training and cfg.SOLVER.ACTIVATION_CHECKPOINTING:
        recompute_activations(ours)
    return Models(authors=authors, ours=None if alone == "theirs" else ours, theirs=theirs, texts=texts)
