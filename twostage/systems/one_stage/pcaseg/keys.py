"""Keys of PCA-Seg, besides those of CAT-Seg that it shares (`MODEL.CATSEG`)."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError, shown
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.PCASEG = CN()
    # Experts that fuse the two branches of a block.
    cfg.MODEL.PCASEG.EXPERTS = 4
    # Weight of the loss that keeps the two branches orthogonal.
    cfg.MODEL.PCASEG.ORTHOGONALITY_WEIGHT = 0.001


def _check(cfg: CN) -> None:
    if cfg.MODEL.META_ARCHITECTURE != "PCASeg":
        return
    for key in ("SPATIAL_AGGREGATION", "CLASS_AGGREGATION"):
        if not cfg.MODEL.CATSEG[key]:
            raise UserError(f"MODEL.CATSEG.{key} is False, but PCA-Seg fuses both aggregations; leave it True")
    if cfg.MODEL.COST_AGGREGATION.FEED_FORWARD != "plain":
        raise UserError(
            f"MODEL.COST_AGGREGATION.FEED_FORWARD is {shown(cfg.MODEL.COST_AGGREGATION.FEED_FORWARD)}; PCA-Seg has it 'plain'"
        )


GROUPS = (KeyGroup(add=_add, positive=("MODEL.PCASEG.EXPERTS", "MODEL.PCASEG.ORTHOGONALITY_WEIGHT"), check=_check),)
