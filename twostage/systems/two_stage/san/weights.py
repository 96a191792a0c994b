"""Names of official SAN checkpoints (san_vit_b_16.pth, san_vit_large_14.pth) and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.systems.two_stage.san.card import CARDS

_EXTRACTOR = "clip_visual_extractor."
_RECOGNITION = "clip_rec_head."
_TEXT = "ov_classifier."
_SIDE = "side_adapter_network."


def checkpoint_table(split_block: int) -> CheckpointTable:
    """The table for a model whose recognition head starts at CLIP block `split_block` (official blocks restart at 0)."""
    blocks = "clip.visual.transformer.resblocks.{i}."
    return CheckpointTable(
        system="SAN",
        signatures=tuple(CARDS[0].signatures.values()),
        renames=(
            Rename(f"{_EXTRACTOR}resblocks.{{i}}.", blocks, last=split_block - 1),
            Rename(f"{_RECOGNITION}resblocks.{{i}}.", blocks, first=split_block),
            Rename(f"{_RECOGNITION}ln_post.", "clip.visual.ln_post."),
            Rename(f"{_RECOGNITION}proj", "clip.visual.proj"),
            Rename(_EXTRACTOR, "clip.visual."),
            Rename(f"{_TEXT}bg_embed", "void_embedding"),
            Rename(_TEXT, "clip."),
            Rename(f"{_SIDE}vit_model.patch_embed.proj.", "side_adapter.patch_embed."),
            Rename(f"{_SIDE}fusion_layers.layer_{{i}}.input_proj.0.", "side_adapter.fusions.{i}.norm."),
            Rename(f"{_SIDE}fusion_layers.layer_{{i}}.input_proj.1.", "side_adapter.fusions.{i}.proj."),
            Rename(f"{_SIDE}mask_decoder.", "side_adapter.decoder."),
            Rename(f"{_SIDE}query_", "side_adapter.query_"),
            # Last: on our side its prefix covers everything of the side adapter.
            Rename(f"{_SIDE}vit_model.", "side_adapter."),
        ),
        dropped={
            r"criterion\.empty_weight": "made from the number of training classes",
            r"ov_classifier\.attn_mask": "the causal mask, a constant",
        },
    )
