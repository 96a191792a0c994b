"""Reference cases of an ODISE training step: losses, matches, gradients, optimizer settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch import Tensor

from conformance.case import Case, Comparison
from conformance.generator import check_training, striped_batch
from conformance.odise import seeded_model
from twostage.systems.two_stage.odise.features import NAMES
from twostage.systems.two_stage.odise.heads import MaskEmbedding, TextHead
from twostage.systems.two_stage.odise.model import ODISE

Arrays = dict[str, Any]
# The list of names that the label model is trained on.
_TRAINING_SET = "openvocab_coco_2017_train_panoptic_with_sem_seg"


def check_training_case(case: Case) -> list[Comparison]:
    """Compare every array and figure of a training case."""
    meta = case.meta
    model, cfg = seeded_model(meta, meta["variant"])
    batch = striped_batch(meta, dataset_name=_TRAINING_SET)
    for entry, words in zip(batch, meta.get("words", ()), strict=False):
        entry["words"] = words
    table = json.loads((case.path.parent / meta["trainable_table"]).read_text(encoding="utf-8"))["trainable"]
    arrays: Arrays = {}
    with _recording(model, arrays):
        rows = check_training(model.train(), case, cfg, batch, table, unmade=_OWN)
    return [*(case.compare(name, arrays[name]) for name in case.names if name.startswith(_OWN)), *rows]


# What is recorded here and not by `check_training`.
_OWN = ("mask_embed", "s2", "s3", "s4", "s5", "text_embed_projected", "word_embed_projected", "null_embed_projected")


@contextmanager
def _recording(model: ODISE, arrays: Arrays) -> Iterator[None]:
    embed, project = MaskEmbedding.forward, TextHead.forward

    def record_embed(self: MaskEmbedding, *args: Any) -> Tensor:
        out = embed(self, *args)
        # The final prediction comes first.
        arrays.setdefault("mask_embed", out)
        return out

    def record_project(self: TextHead, names: Tensor) -> Tensor:
        projected = self.text_proj(names)
        arrays["text_embed_projected"] = projected
        arrays["word_embed_projected"] = projected.unflatten(0, (-1, 8)) if len(projected) % 8 == 0 else projected
        if self.null_embed is not None:
            arrays["null_embed_projected"] = self.text_proj(self.null_embed)
        return project(self, names)

    hook = model.features.register_forward_hook(
        lambda _m, _i, out: arrays.update({f"s{s.bit_length() - 1}": out[name] for s, name in NAMES.items()})
    )
    with (
        mock.patch.object(MaskEmbedding, "forward", record_embed),
        mock.patch.object(TextHead, "forward", record_project),
    ):
        yield
    hook.remove()
