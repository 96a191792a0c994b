"""Names of official OVSeg and zsseg checkpoints and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.systems.two_stage.ovseg.card import CARDS

_DECODER = "sem_seg_head.pixel_decoder."
_PREDICTOR = "sem_seg_head.predictor."
_ADAPTER = "clip_adapter."
_LAYER = f"{_PREDICTOR}transformer.decoder.layers.{{i}}."
_OUR_LAYER = "generator.layers.{i}."


def checkpoint_table(*, has_prompts: bool) -> CheckpointTable:
    """The table for a model with or without mask prompts.

    Args:
        has_prompts: whether our CLIP has them; a file's prompts are dropped where it has not.
    """
    dropped = {
        r"criterion\.empty_weight": "made from the number of training classes",
        r"clip_adapter\.pixel_(mean|std)": "CLIP's constants",
        r"clip_adapter\.prompt_learner\..*": "zsseg's learnt words, used with its own templates only",
    }
    if not has_prompts:
        dropped[r"clip_adapter\.clip_model\.visual\.mask_embedding"] = "mask prompts are switched off"
    return CheckpointTable(
        system="OVSeg",
        signatures=tuple(signature for card in CARDS for signature in card.signatures.values()),
        renames=(
            Rename("backbone.", "backbone."),
            Rename(_DECODER, "generator.pixel_decoder."),
            Rename(f"{_LAYER}self_attn.", f"{_OUR_LAYER}self_attention.attn."),
            Rename(f"{_LAYER}multihead_attn.", f"{_OUR_LAYER}cross_attention.attn."),
            Rename(f"{_LAYER}norm1.", f"{_OUR_LAYER}self_attention.norm."),
            Rename(f"{_LAYER}norm2.", f"{_OUR_LAYER}cross_attention.norm."),
            Rename(f"{_LAYER}norm3.", f"{_OUR_LAYER}feed_forward.norm."),
            Rename(f"{_LAYER}linear", f"{_OUR_LAYER}feed_forward.linear"),
            Rename(f"{_PREDICTOR}transformer.decoder.norm.", "generator.norm."),
            Rename(f"{_PREDICTOR}class_embed.", "class_embed."),
            Rename(f"{_ADAPTER}non_object_embedding", "void_embedding"),
            Rename(f"{_ADAPTER}clip_model.", "clip."),
            # Last: on our side its prefix covers everything of the generator.
            Rename(_PREDICTOR, "generator."),
        ),
        dropped=dropped,
    )
