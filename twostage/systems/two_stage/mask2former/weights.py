"""Names of official Mask2Former checkpoints (ADE20K semantic, COCO panoptic; any backbone) and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.proposals.weights import ALIASES, decoder_renames


def checkpoint_table() -> CheckpointTable:
    """The table of the closed and the class-agnostic model."""
    return CheckpointTable(
        system="Mask2Former",
        signature=(
            "sem_seg_head.pixel_decoder.transformer.",
            "sem_seg_head.predictor.transformer_cross_attention_layers.",
        ),
        aliases=ALIASES,
        renames=(
            Rename("backbone.", "generator.backbone."),
            *decoder_renames("generator."),
            Rename("sem_seg_head.predictor.class_embed.", "class_embed."),
        ),
        dropped={r"criterion\.empty_weight": "made from the number of training classes"},
    )
