"""Checkpoints that training-free systems take: OpenAI's CLIP files, and MaskCLIP's, with the image tower in mmseg's names."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename, Supply
from twostage.clip.towers.mmseg_names import DROPPED, FRESH, tower_renames
from twostage.systems.training_free.dense_clip.card import CARDS

_CARDS = {card.name: card for card in CARDS}


def checkpoint_table() -> CheckpointTable:
    """The table of a model that is CLIP and nothing else; OpenAI's names are open_clip's without our prefix."""
    return CheckpointTable(
        system="CLIP",
        signatures=tuple(_CARDS["CLIP"].signatures.values()),
        renames=(Rename("", "clip."),),
        dropped={
            r"input_resolution|context_length|vocab_size": "figures that the model's configuration says as well",
            r"(.*\.)?attn_mask": "the causal mask, a constant",
        },
    )


def maskclip_table(*, resnet: bool, read_clip: Supply | None = None) -> CheckpointTable:
    """The table of MaskCLIP's checkpoints for CLIP's ResNet or ViT: no text tower, but the text embeddings of one class list.

    Args:
        read_clip: CLIP's own weights, for the text tower.
    """
    return CheckpointTable(
        system="MaskCLIP",
        signatures=(_CARDS["MaskCLIP"].signatures["ResNet" if resnet else "ViT"],),
        renames=tower_renames("backbone.", "decode_head.", resnet=resnet),
        dropped=DROPPED,
        fresh=FRESH,
        supply=read_clip,
    )
