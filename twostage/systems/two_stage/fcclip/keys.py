"""Keys of FC-CLIP; its decoder has those of `MODEL.MASK2FORMER`."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.FCCLIP = CN()
    # CLIP's share in the geometric ensemble, for classes of the training set and for others.
    cfg.MODEL.FCCLIP.SEEN_WEIGHT = 0.4
    cfg.MODEL.FCCLIP.UNSEEN_WEIGHT = 0.8
    # Masks that vanish on CLIP's coarse grid keep the decoder's classes (published for ResNets).
    cfg.MODEL.FCCLIP.ENSEMBLE_ON_VALID_MASK = False
    # Whose classes count as trained: a dataset by name, "odise:NAME" with a published system's class names for it, or a file
    # of names; "": the first of DATASETS.TRAIN.
    cfg.MODEL.FCCLIP.TRAIN_VOCABULARY = ""


GROUPS = (
    KeyGroup(
        add=_add,
        paths=("MODEL.FCCLIP.TRAIN_VOCABULARY",),
        fraction=("MODEL.FCCLIP.SEEN_WEIGHT", "MODEL.FCCLIP.UNSEEN_WEIGHT"),
    ),
)
