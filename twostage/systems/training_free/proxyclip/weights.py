"""Official checkpoints of DINO and DINOv2 in a system whose CLIP comes from its own weights."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename, Supply
from twostage.foundation.loading import UNREAD
from twostage.systems.training_free.proxyclip.card import CARDS

# OpenAI's names begin with one of these; all others are the foundation model's.
_CLIP = (
    *("visual.", "transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection"),
    "logit_scale",
)


def foundation_table(read_clip: Supply | None = None) -> CheckpointTable:
    """DINO's and DINOv2's names are ours without a prefix.

    Args:
        read_clip: CLIP's own weights.
    """
    (card,) = CARDS
    return CheckpointTable(
        system=card.name,
        signatures=tuple(card.signatures.values()),
        renames=(*(Rename(name, f"clip.{name}") for name in _CLIP), Rename("", "foundation.")),
        dropped=UNREAD,
        fresh={r"clip\..*": "CLIP's, from MODEL.CLIP.PRETRAINED"},
        supply=read_clip,
    )
