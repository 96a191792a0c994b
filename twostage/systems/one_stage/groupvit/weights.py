"""Names in transformers' layout and ours: the whole network stands under `network.`."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.systems.one_stage.groupvit.card import CARDS


def groupvit_table() -> CheckpointTable:
    """The table of `model.safetensors`."""
    (card,) = CARDS
    return CheckpointTable(
        system=card.name,
        signatures=tuple(card.signatures.values()),
        renames=(Rename("", "network."),),
        dropped={r"text_model\.embeddings\.position_ids": "0, 1, 2, ...: older versions of transformers stored it"},
    )
