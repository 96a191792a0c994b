"""Evaluation; what else is measured follows from the outputs (`twostage.predictions.keys`)."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    # Also write the predicted label maps as PNG files under OUTPUT_DIR/inference.
    cfg.TEST.SAVE_PREDICTIONS = False
    # Also compute boundary IoU (Cheng et al., CVPR 2021).
    cfg.TEST.BOUNDARY_IOU = False
    # Also split the error into mask and classification error and measure oracles (each image is encoded twice).
    cfg.TEST.ORACLES = False
    # Also compute semantic-guided IoU (SCAN); for and PC-459.
    cfg.TEST.SG_IOU = False
    # Leave out images whose picture or label file is broken, and list them in the results file, instead of stopping.
    cfg.TEST.SKIP_BROKEN = False
    # Also ask for each class of an image alone, as somebody does who knows no list (twostage/evaluation/single_query.py;
    # each image is encoded twice), ...
    cfg.TEST.SINGLE_QUERY = False
    # ... with the shipped contrast words ("auto") or without any ("none"). All other figures do without them always.
    cfg.TEST.OTHERS = "none"


def _check(cfg: CN) -> None:
    if cfg.TEST.OTHERS != "none" and not cfg.TEST.SINGLE_QUERY:
        raise UserError(
            f"TEST.OTHERS {cfg.TEST.OTHERS!r} needs TEST.SINGLE_QUERY True; only single queries have others"
        )


GROUPS = (KeyGroup(add=_add, choices={"TEST.OTHERS": ("none", "auto")}, check=_check),)
