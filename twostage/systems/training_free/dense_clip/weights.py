"""CLIP checkpoints in OpenAI's names, which are open_clip's without our prefix."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.systems.training_free.dense_clip.card import CARDS


def checkpoint_table() -> CheckpointTable:
    """The table of a model that is CLIP and nothing else."""
    return CheckpointTable(
        system="CLIP",
        signatures=tuple(CARDS[0].signatures.values()),
        renames=(Rename("", "clip."),),
        dropped={
            r"input_resolution|context_length|vocab_size": "figures that the model's configuration says as well",
            r"(.*\.)?attn_mask": "the causal mask, a constant",
        },
    )
