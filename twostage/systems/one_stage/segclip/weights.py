"""Names of the official SegCLIP checkpoint (segclip.bin, a plain state dict) and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.systems.one_stage.segclip.card import CARDS

_VISUAL = "clip.visual.transformer."
_SEMANTIC = f"{_VISUAL}semantic_layer2."
_DECODER = "vis_mae_decoder."


def checkpoint_table(patch_blocks: int) -> CheckpointTable:
    """The table for a model whose first `patch_blocks` CLIP blocks see patches (the others restart at 0 there)."""
    blocks = f"{_VISUAL}resblocks.{{i}}."
    return CheckpointTable(
        system="SegCLIP",
        signatures=tuple(CARDS[0].signatures.values()),
        renames=(
            Rename(f"{_VISUAL}layers0.{{i}}.", blocks, last=patch_blocks - 1),
            Rename(f"{_VISUAL}layers2.{{i}}.", blocks, first=patch_blocks),
            Rename(f"{_VISUAL}layers_mae2.{{i}}.", "reconstruction.blocks.{i}."),
            Rename(f"{_VISUAL}reconstruct_layer2.rec_proj_a.a_fc.", "reconstruction.mixing."),
            Rename(f"{_SEMANTIC}semantic_center", "semantic_layer.centres"),
            Rename(f"{_SEMANTIC}cross_att.{{i}}.", "semantic_layer.cross_attention.{i}."),
            Rename(f"{_SEMANTIC}cross_ln.", "semantic_layer.query_norm."),
            Rename(f"{_SEMANTIC}k_conv.", "semantic_layer.key."),
            Rename(f"{_SEMANTIC}k_ln.", "semantic_layer.key_norm."),
            Rename(f"{_SEMANTIC}v_conv.", "semantic_layer.value."),
            Rename(f"{_SEMANTIC}proj_o.ln.", "semantic_layer.output_norm."),
            Rename(f"{_SEMANTIC}proj_o.mlp.", "semantic_layer.output."),
            Rename(f"{_SEMANTIC}norm.", "semantic_layer.norm."),
            Rename(f"{_DECODER}mask_token", "reconstruction.decoder.mask_token"),
            Rename(f"{_DECODER}decoder_", "reconstruction.decoder."),
            Rename("clip.", "clip."),
        ),
        dropped={r"vis_mae_decoder\.decoder_pos_embed": "sines and cosines, a constant"},
    )
