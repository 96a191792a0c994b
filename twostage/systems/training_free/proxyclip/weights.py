"""Official checkpoints of DINO and DINOv2 in a system whose CLIP comes from its own weights."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename, Supply
from twostage.clip.openai_names import CLIP_FRESH, CLIP_RENAMES
from twostage.foundation.loading import UNREAD
from twostage.systems.training_free.proxyclip.card import CARDS


def foundation_table(read_clip: Supply | None = None) -> CheckpointTable:
    """DINO's and DINOv2's names are ours without a prefix.

    Args:
        read_clip: CLIP's own weights.
    """
    (card,) = CARDS
    return CheckpointTable(
        system=card.name,
        signatures=tuple(card.signatures.values()),
        renames=(*CLIP_RENAMES, Rename("", "foundation.")),
        dropped=UNREAD,
        fresh=CLIP_FRESH,
        supply=read_clip,
    )
