"""The checkpoint: the two tensors of FOUND's head; CLIP and DINO come from their own weights."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename, Supply
from twostage.clip.openai_names import CLIP_FRESH, CLIP_RENAMES
from twostage.systems.training_free.clip_diy.card import CARDS


def diy_table(read_frozen: Supply | None = None) -> CheckpointTable:
    """Names of the head.

    Args:
        read_frozen: CLIP's and DINO's own weights.
    """
    (card,) = CARDS
    return CheckpointTable(
        system=card.name,
        signatures=tuple(card.signatures.values()),
        renames=(
            Rename("weight", "found.head.weight"),
            Rename("bias", "found.head.bias"),
            *CLIP_RENAMES,
            Rename("", "foundation."),
        ),
        fresh={**CLIP_FRESH, r"foundation\..*": "DINO's, from MODEL.FOUNDATION.PRETRAINED"},
        supply=read_frozen,
    )
