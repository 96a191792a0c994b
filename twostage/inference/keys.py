"""Keys of sliding windows and early rejection in dense systems, and how windows can be padded."""

from __future__ import annotations

from typing import Literal

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup
from twostage.sizes import LONGEST_PICTURE

# Where a window is zero-padded to whole patches, and what becomes of the padding in the scores.
# - "none": not at all; pixels beyond whole patches are not seen, and the grid is stretched over the window.
# - "stretch": right and bottom; the grid of the padded window is stretched over the unpadded one (MaskCLIP's mmseg ViT).
# - "centre": on all sides, half and half; the padding is cut off again (ClearCLIP, ProxyCLIP).
Padding = Literal["none", "stretch", "centre"]


def _add_sliding(cfg: CN) -> None:
    cfg.TEST.SLIDING = CN()
    # Predict from overlapping tiles instead of the whole image.
    cfg.TEST.SLIDING.ENABLED = False
    # Side of a square tile and step between tiles, in pixels.
    cfg.TEST.SLIDING.TILE = 384
    cfg.TEST.SLIDING.STRIDE = 256
    # The image is resized to a square of this side before it is cut (0: cut as it is).
    cfg.TEST.SLIDING.CANVAS = 0
    # Average with a view of the whole image, resized to the tile's size.
    cfg.TEST.SLIDING.WHOLE_IMAGE = False


def _check_sliding(cfg: CN) -> None:
    sliding = cfg.TEST.SLIDING
    if sliding.STRIDE > sliding.TILE:
        raise UserError(
            f"TEST.SLIDING.STRIDE {sliding.STRIDE} must not exceed TEST.SLIDING.TILE {sliding.TILE}, "
            "or pixels between the tiles are never seen"
        )
    if sliding.CANVAS < 0:
        raise UserError(
            f"TEST.SLIDING.CANVAS is {sliding.CANVAS}; give a side in pixels, or 0 for the image's own size"
        )


def _add_early_rejection(cfg: CN) -> None:
    # Leave classes that look absent at an early stage out of the later ones.
    cfg.TEST.EARLY_REJECTION = CN()
    cfg.TEST.EARLY_REJECTION.ENABLED = False
    # "top_k": classes that no pixel ranks in its top k (SED's fast inference). "votes": all but the SLOTS classes that most
    # pixels vote for (ERR-Seg's class selection).
    cfg.TEST.EARLY_REJECTION.RULE = "top_k"
    cfg.TEST.EARLY_REJECTION.TOP_K = 8
    cfg.TEST.EARLY_REJECTION.SLOTS = 32


def _add_large(cfg: CN) -> None:
    # `twostage large`: pictures that are looked at in tiles.
    cfg.TEST.LARGE = CN()
    # Side of a square tile and how far neighbours overlap, in pixels of the picture.
    cfg.TEST.LARGE.TILE = 1024
    cfg.TEST.LARGE.OVERLAP = 256
    # MiB of scores that are held at a time. With less, tiles are computed more often; labels stay the same.
    cfg.TEST.LARGE.MEMORY = 1024


def _check_large(cfg: CN) -> None:
    large = cfg.TEST.LARGE
    if large.TILE > LONGEST_PICTURE:
        raise UserError(f"TEST.LARGE.TILE is {large.TILE}; a tile has at most {LONGEST_PICTURE} pixels a side")
    if not 0 <= large.OVERLAP < large.TILE:
        raise UserError(
            f"TEST.LARGE.OVERLAP is {large.OVERLAP}; it must be at least 0 and less than TEST.LARGE.TILE {large.TILE}"
        )


GROUPS = (
    KeyGroup(
        add=_add_large,
        positive=("TEST.LARGE.TILE", "TEST.LARGE.MEMORY"),
        check=_check_large,
    ),
    KeyGroup(
        add=_add_sliding,
        positive=("TEST.SLIDING.TILE", "TEST.SLIDING.STRIDE"),
        sides=("TEST.SLIDING.TILE", "TEST.SLIDING.CANVAS"),
        check=_check_sliding,
    ),
    KeyGroup(
        add=_add_early_rejection,
        choices={"TEST.EARLY_REJECTION.RULE": ("top_k", "votes")},
        positive=("TEST.EARLY_REJECTION.TOP_K", "TEST.EARLY_REJECTION.SLOTS"),
    ),
)
