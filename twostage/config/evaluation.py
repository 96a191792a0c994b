"""Evaluation."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.config.group import KeyGroup


def _add(cfg: CN) -> None:
    # Also write the predicted label maps as PNG files under OUTPUT_DIR/inference.
    cfg.TEST.SAVE_PREDICTIONS = False


GROUP = KeyGroup(add=_add)
