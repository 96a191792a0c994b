"""The published checkpoint: the projection's four tensors; CLIP and DINOv2 come from their own weights."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import Tensor

from twostage.checkpoint.renaming import CheckpointTable, Rename, Supply
from twostage.clip.loading import clip_reader_from_config
from twostage.clip.openai_names import CLIP_FRESH, CLIP_RENAMES
from twostage.foundation.loading import foundation_reader_from_config
from twostage.systems.training_free.talk2dino.card import CARDS


def talk2dino_table(read_frozen: Supply | None = None) -> CheckpointTable:
    """Names of the projection.

    Args:
        read_frozen: CLIP's and DINOv2's own weights.
    """
    (card,) = CARDS
    return CheckpointTable(
        system=card.name,
        signatures=tuple(card.signatures.values()),
        renames=(
            Rename("linear_layer.", "projection.hidden."),
            Rename("hidden_layers.0.", "projection.output."),
            *CLIP_RENAMES,
            Rename("", "foundation."),
        ),
        # What older files call the second layer.
        aliases=(Rename("linear_layer2.", "hidden_layers.0."),),
        fresh={**CLIP_FRESH, r"foundation\..*": "DINOv2's, from MODEL.FOUNDATION.PRETRAINED"},
        supply=read_frozen,
    )


def frozen_reader_from_config(cfg: CfgNode) -> Supply:
    """Reads CLIP and the foundation model with the keys of `MODEL.CLIP` and `MODEL.FOUNDATION`."""
    clip, foundation = clip_reader_from_config(cfg, lacks="towers"), foundation_reader_from_config(cfg)

    def read(source: str) -> dict[str, Tensor]:
        return {**clip(source), **{f"foundation.{name}": tensor for name, tensor in foundation().items()}}

    return read
