"""Names of official FC-CLIP checkpoints (ConvNeXt-L and OpenAI's ResNets) and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.proposals.weights import decoder_renames
from twostage.systems.two_stage.fcclip.card import CARDS

_PREDICTOR = "sem_seg_head.predictor."
RENAMES = (
    Rename("backbone.clip_model.", "clip."),
    *decoder_renames(""),
    Rename(f"{_PREDICTOR}class_embed.", "class_embed."),
    Rename(f"{_PREDICTOR}_mask_pooling_proj.", "pooled_proj."),
    Rename(f"{_PREDICTOR}logit_scale", "logit_scale"),
    Rename("void_embedding.", "void_embedding."),
)


def checkpoint_table() -> CheckpointTable:
    """The table; it is the same for all towers, since CLIP keeps open_clip's names."""
    return CheckpointTable(
        system="FC-CLIP",
        signatures=tuple(CARDS[0].signatures.values()),
        renames=RENAMES,
        dropped={r"criterion\.empty_weight": "made from the number of training classes"},
    )
