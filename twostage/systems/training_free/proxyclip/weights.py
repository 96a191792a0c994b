"""Official checkpoints of DINO, DINOv2 and SAM in a system whose CLIP comes from its own weights."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename, Supply
from twostage.clip.openai_names import CLIP_FRESH, CLIP_RENAMES
from twostage.foundation.loading import UNREAD
from twostage.foundation.sam_names import with_prefix
from twostage.foundation.sam_signatures import OFFICIAL
from twostage.systems.training_free.proxyclip.card import CARDS


def foundation_table(read_clip: Supply | None = None, *, is_sam: bool = False) -> CheckpointTable:
    """DINO's and DINOv2's names are ours without a prefix; SAM has a table.

    Args:
        read_clip: CLIP's own weights.
    """
    (card,) = CARDS
    return CheckpointTable(
        system=card.name,
        signatures=(OFFICIAL,) if is_sam else tuple(card.signatures.values()),
        renames=(*CLIP_RENAMES, *(with_prefix("foundation.") if is_sam else (Rename("", "foundation."),))),
        dropped=UNREAD,
        fresh=CLIP_FRESH,
        supply=read_clip,
    )
