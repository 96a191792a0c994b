"""Names of official Mask2Former checkpoints (ADE20K semantic, COCO panoptic; any backbone) and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.proposals.weights import ALIASES, decoder_renames
from twostage.systems.two_stage.mask2former.card import CARDS


def checkpoint_table() -> CheckpointTable:
    """The table of the closed and the class-agnostic model."""
    return CheckpointTable(
        system="Mask2Former",
        signatures=tuple(CARDS[0].signatures.values()),
        aliases=ALIASES,
        renames=(
            Rename("backbone.", "generator.backbone."),
            *decoder_renames("generator."),
            Rename("sem_seg_head.predictor.class_embed.", "class_embed."),
        ),
        dropped={r"criterion\.empty_weight": "made from the number of training classes"},
    )
