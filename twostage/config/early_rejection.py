"""Category early rejection of dense systems."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.config.group import KeyGroup


def _add(cfg: CN) -> None:
    # Leave classes that no pixel ranks in its top k at an early stage out of the later ones (SED's fast inference).
    cfg.TEST.EARLY_REJECTION = CN()
    cfg.TEST.EARLY_REJECTION.ENABLED = False
    cfg.TEST.EARLY_REJECTION.TOP_K = 8


GROUP = KeyGroup(add=_add, positive=("TEST.EARLY_REJECTION.TOP_K",))
