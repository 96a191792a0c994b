"""Names of official SCAN checkpoints (scan_vitB.pth, scan_vitL.pth) and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.proposals.weights import ALIASES, decoder_renames
from twostage.systems.two_stage.scan.card import CARDS


def checkpoint_table() -> CheckpointTable:
    """The table of both variants."""
    return CheckpointTable(
        system="SCAN",
        signatures=tuple(CARDS[0].signatures.values()),
        aliases=ALIASES,
        renames=(
            Rename("backbone.", "generator.backbone."),
            *decoder_renames("generator."),
            Rename("sem_seg_head.predictor.class_embed.", "class_embed."),
            Rename("clip_adapter.clip_model.", "clip."),
            Rename("clip_adapter.original_clip.", "context_clip."),
            Rename("clip_adapter.non_object_embedding", "void_embedding"),
            Rename("LFM.", "calibration.frequency_filter."),
            Rename("oriclip_mlp.fc1.", "calibration.projection.0."),
            Rename("oriclip_mlp.fc2.", "calibration.projection.1."),
            Rename("fusion_decoder.multiattn.", "calibration.fusion.attentions."),
            Rename("fusion_decoder.ln.", "calibration.fusion.norms."),
            Rename("lightweight_transformer.layers.", "calibration.refinement."),
            Rename("learnable_weight", "calibration.class_weight"),
        ),
        dropped={
            r"criterion\.empty_weight": "made from the number of training classes",
            r"clip_adapter\.pixel_(mean|std)": "CLIP's constants",
            r"clip_adapter\.clip_model\.attn_mask": "the causal mask, a constant",
        },
    )
