"""Keys of SCAN; its generator has those of Mask2Former."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.SCAN = CN()
    # Hidden channels of the head that leads from queries to CLIP's embedding space.
    cfg.MODEL.SCAN.EMBED_HIDDEN = 1024
    # Blocks of the untouched CLIP whose patches become context, and the width of the frequency filter for each.
    cfg.MODEL.SCAN.CONTEXT_BLOCKS = [6, 9, 12]
    cfg.MODEL.SCAN.FREQUENCY_SIGMA = [9.0, 7.0, 3.0]
    # Attention layers from queries to context, layers that refine each query after, heads of both.
    cfg.MODEL.SCAN.FUSION_LAYERS = 5
    cfg.MODEL.SCAN.REFINE_LAYERS = 5
    cfg.MODEL.SCAN.REFINE_HIDDEN = 2048
    cfg.MODEL.SCAN.REFINE_DROPOUT = 0.1
    cfg.MODEL.SCAN.HEADS = 8
    # Pixels of a higher mask probability are a proposal's region.
    cfg.MODEL.SCAN.MASK_THRESHOLD = 0.4
    # Share w of CLIP's regions in generator^(1 - w) * clip^w; 0 is CLIP alone.
    cfg.MODEL.SCAN.ENSEMBLE_WEIGHT = 0.7
    # Contextual shift: after these blocks (counted from 1) this share of a region's blank patches becomes the whole
    # picture's class token.
    cfg.MODEL.SCAN.SHIFT_BLOCKS = [1, 3, 5]
    cfg.MODEL.SCAN.SHIFT_RATIO = 0.05
    # Class scores are weighed against the void score once more (published for A-847 and PC-459).
    cfg.MODEL.SCAN.WEIGH_VOID = False
    # Side of a crop in pixels, whole patches; CLIP's position embedding is resized to it. 0: that of the pictures CLIP
    # takes, as published.
    cfg.MODEL.SCAN.CROP_SIZE = 0
    # Crops per pass through CLIP; bounds the memory.
    cfg.MODEL.SCAN.CROP_BATCH = 32


def _check(cfg: CN) -> None:
    scan = cfg.MODEL.SCAN
    if len(scan.CONTEXT_BLOCKS) != len(scan.FREQUENCY_SIGMA):
        raise UserError(
            f"MODEL.SCAN.CONTEXT_BLOCKS {scan.CONTEXT_BLOCKS} and MODEL.SCAN.FREQUENCY_SIGMA {scan.FREQUENCY_SIGMA} must "
            "be of equal length"
        )
    for sigma in scan.FREQUENCY_SIGMA:
        if sigma <= 0:
            raise UserError(f"MODEL.SCAN.FREQUENCY_SIGMA has {sigma}; it must be greater than 0")
    for block in (*scan.CONTEXT_BLOCKS, *scan.SHIFT_BLOCKS):
        if block < 1:
            raise UserError(f"MODEL.SCAN.CONTEXT_BLOCKS and SHIFT_BLOCKS count CLIP's blocks from 1; {block} is none")


GROUPS = (
    KeyGroup(
        add=_add,
        positive=tuple(
            f"MODEL.SCAN.{name}"
            for name in ("EMBED_HIDDEN", "FUSION_LAYERS", "REFINE_LAYERS", "REFINE_HIDDEN", "HEADS", "CROP_BATCH")
        ),
        fraction=(
            "MODEL.SCAN.MASK_THRESHOLD",
            "MODEL.SCAN.ENSEMBLE_WEIGHT",
            "MODEL.SCAN.SHIFT_RATIO",
            "MODEL.SCAN.REFINE_DROPOUT",
        ),
        sides=("MODEL.SCAN.CROP_SIZE",),
        check=_check,
    ),
)
