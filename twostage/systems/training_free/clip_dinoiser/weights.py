"""The published checkpoint: the head's four tensors; CLIP comes from its own weights."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename, Supply
from twostage.clip.openai_names import CLIP_FRESH, CLIP_RENAMES
from twostage.systems.training_free.clip_dinoiser.card import CARDS


def dinoiser_table(read_clip: Supply | None = None) -> CheckpointTable:
    """Names of the head.

    Args:
        read_clip: CLIP's own weights.
    """
    (card,) = CARDS
    return CheckpointTable(
        system=card.name,
        signatures=tuple(card.signatures.values()),
        renames=(Rename("obj_proj.", "head.embed."), Rename("bkg_decoder.", "head.background."), *CLIP_RENAMES),
        fresh=CLIP_FRESH,
        supply=read_clip,
    )
