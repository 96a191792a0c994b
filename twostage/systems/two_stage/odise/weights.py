"""Names of official ODISE checkpoints (label, caption), and of the frozen models that are not in them, and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename, Supply
from twostage.proposals.weights import ALIASES, decoder_renames
from twostage.systems.two_stage.odise.card import CARDS
from twostage.systems.two_stage.odise.diffusion.ldm_names import ldm_renames

_EXTRACTOR = "backbone.feature_extractor."
_PREDICTOR = "sem_seg_head.predictor."
# Under our names; an official file has none of them.
_FROZEN = {
    r"clip\..*": "frozen, from MODEL.CLIP.PRETRAINED",
    r"features\.diffusion\..*": "frozen, from MODEL.ODISE.DIFFUSION.PRETRAINED",
    r"features\.captioner\.empty_prompt": "made by Stable Diffusion's text encoder",
}


def checkpoint_table(supervision: str, *, read_frozen: Supply | None = None) -> CheckpointTable:
    """The table of the model of this supervision. Official files hold the trained part only.

    Args:
        supervision: "label" or "caption".
        read_frozen: reads CLIP and the diffusion model from their own files, under our names.
    """
    # Both heads are known, so that a file of the other model is told by what is missing.
    heads = ("category_head.", "word_head.") if supervision == "label" else ("word_head.", "category_head.")
    return CheckpointTable(
        system="ODISE",
        signatures=tuple(CARDS[0].signatures.values()),
        aliases=ALIASES,
        renames=(
            Rename(f"{_EXTRACTOR}alpha_cond_time_embed", "features.captioner.time_gate"),
            Rename(f"{_EXTRACTOR}alpha_cond", "features.captioner.prompt_gate"),
            Rename(f"{_EXTRACTOR}clip_project.", "features.captioner.to_prompt."),
            Rename(f"{_EXTRACTOR}time_embed_project.", "features.captioner.to_time."),
            Rename("backbone.feature_projections.{i}.0.", "features.projections.{i}."),
            *decoder_renames(""),
            Rename(f"{_PREDICTOR}post_mask_embed.", "mask_embedding."),
            Rename(f"{_PREDICTOR}class_embed.", "objectness."),
            *(Rename(head, "text_head.") for head in heads),
            Rename("clip.", "clip."),
            *ldm_renames("features.diffusion."),
        ),
        dropped={r"criterion\.empty_weight": "made from the number of training classes"},
        fresh=_FROZEN,
        supply=read_frozen,
    )
