"""Keys of CorrCLIP; masks are MODEL.MASKS', affinities MODEL.FOUNDATION's, the rest MODEL.TRAINING_FREE's."""

from __future__ import annotations

from typing import get_args

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.foundation.keys import SamName
from twostage.keys import KeyGroup
from twostage.systems.training_free.dense_clip.keys import require_own_attention

# First and last of the middle blocks, counted from 0, by the tower's depth, as published (ViT-B, -L, -H).
PUBLISHED_BLOCKS = {12: (5, 9), 24: (10, 21), 32: (2, 29)}


def _add(cfg: CN) -> None:
    cfg.MODEL.CORRCLIP = CN()
    keys = cfg.MODEL.CORRCLIP
    # Regions whose mean features are at most this far apart (as cosines) become one.
    keys.MERGE_DISTANCE = 0.2
    # Factor of the cosines in the softmax.
    keys.FACTOR = 4.0
    # Weights of the mean of the middle blocks and of the region tokens, beside 1 of the last values.
    keys.SPATIAL_WEIGHT = 1.0
    keys.SEMANTIC_WEIGHT = 0.5
    # First and last of the middle blocks, counted from 0; []: as published, see PUBLISHED_BLOCKS.
    keys.SPATIAL_BLOCKS = []
    # Windows are padded to a multiple of this many pixels: 56 for patches of 8 and 14.
    keys.WINDOW_MULTIPLE = 56


def spatial_blocks(cfg: CN, depth: int) -> tuple[int, int]:
    """First and last of the middle blocks of a tower of `depth` blocks.

    Raises:
        UserError: none are published for it and none are set, or they are not in front of the last block.
    """
    given = tuple(cfg.MODEL.CORRCLIP.SPATIAL_BLOCKS) or PUBLISHED_BLOCKS.get(depth)
    if given is None:
        raise UserError(
            f"MODEL.CORRCLIP.SPATIAL_BLOCKS is [], but nothing is published for an image tower of {depth} blocks; give the "
            f"first and the last, e.g. [{depth // 2 - 1}, {depth - 3}]"
        )
    if len(given) != 2 or not 0 <= given[0] <= given[1] < depth - 1:
        raise UserError(
            f"MODEL.CORRCLIP.SPATIAL_BLOCKS is {list(given)}; give the first and the last of the middle blocks, between 0 and "
            f"{depth - 2}"
        )
    return given[0], given[1]


def _check(cfg: CN) -> None:
    if cfg.MODEL.META_ARCHITECTURE != "CorrClip":
        return
    require_own_attention(cfg, "CorrCLIP")
    if cfg.MODEL.FOUNDATION.NAME in get_args(SamName):
        raise UserError(
            f"MODEL.FOUNDATION.NAME is {cfg.MODEL.FOUNDATION.NAME!r}, but CorrCLIP compares queries and keys of DINO; use "
            "'dino_vitb8' (SAM's masks are MODEL.MASKS.SOURCE 'sam')"
        )
    if cfg.MODEL.MASKS.SOURCE == "own":
        raise UserError(
            "MODEL.MASKS.SOURCE is 'own', but CorrCLIP has no mask generator of its own; use another, e.g. 'superpixels'"
        )


GROUPS = (
    KeyGroup(
        add=_add,
        positive=("MODEL.CORRCLIP.FACTOR", "MODEL.CORRCLIP.WINDOW_MULTIPLE"),
        sides=("MODEL.CORRCLIP.WINDOW_MULTIPLE",),
        fraction=(
            "MODEL.CORRCLIP.MERGE_DISTANCE",
            "MODEL.CORRCLIP.SPATIAL_WEIGHT",
            "MODEL.CORRCLIP.SEMANTIC_WEIGHT",
        ),
        check=_check,
    ),
)
