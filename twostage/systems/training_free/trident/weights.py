"""SAM's official checkpoints in a system whose CLIP and DINO come from their own weights."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import Tensor

from twostage.checkpoint.renaming import CheckpointTable, Rename, Supply
from twostage.clip.loading import clip_reader_from_config
from twostage.clip.openai_names import CLIP_FRESH, CLIP_RENAMES
from twostage.foundation.keys import OWN
from twostage.foundation.loading import foundation_reader_from_config
from twostage.foundation.sam_names import with_prefix
from twostage.systems.training_free.trident.card import CARDS


def trident_table(read_frozen: Supply | None = None) -> CheckpointTable:
    """Names of SAM.

    Args:
        read_frozen: CLIP's and DINO's own weights.
    """
    (card,) = CARDS
    return CheckpointTable(
        system=card.name,
        signatures=tuple(card.signatures.values()),
        renames=(*CLIP_RENAMES, *with_prefix("sam."), Rename("", "foundation.")),
        fresh={**CLIP_FRESH, r"foundation\..*": "DINO's, from MODEL.FOUNDATION.PRETRAINED"},
        supply=read_frozen,
    )


def frozen_reader_from_config(cfg: CfgNode) -> Supply:
    """Reads CLIP and the foundation model with the keys of `MODEL.CLIP` and `MODEL.FOUNDATION`."""
    clip = clip_reader_from_config(cfg, lacks="towers")
    foundation = None if cfg.MODEL.FOUNDATION.NAME == OWN else foundation_reader_from_config(cfg)

    def read(source: str) -> dict[str, Tensor]:
        other = {} if foundation is None else foundation()
        return {**clip(source), **{f"foundation.{name}": tensor for name, tensor in other.items()}}

    return read
