"""Keys of SegCLIP."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.SEGCLIP = CN()
    # Learnable centres: the most groups that an image, or a window of it, is split into.
    cfg.MODEL.SEGCLIP.NUM_CENTRES = 8
    # CLIP's last blocks, which see groups instead of patches.
    cfg.MODEL.SEGCLIP.GROUP_BLOCKS = 2
    # How the semantic layer starts: random, as published, or content: a group's token is the mean of its patches, so that
    # short runs need not learn that first.
    cfg.MODEL.SEGCLIP.START = "random"
    # True: in training the centres of an image attend to patches of all images, as the published run did by mistake.
    cfg.MODEL.SEGCLIP.MIX_BATCH = False
    # Masked reconstruction: share of the patches that are hidden, and the decoder of their pixels.
    cfg.MODEL.SEGCLIP.HIDDEN_SHARE = 0.75
    cfg.MODEL.SEGCLIP.DECODER_WIDTH = 384
    cfg.MODEL.SEGCLIP.DECODER_DEPTH = 3
    cfg.MODEL.SEGCLIP.DECODER_HEADS = 8
    # Longer training captions are cut.
    cfg.MODEL.SEGCLIP.CAPTION_TOKENS = 32
    cfg.MODEL.SEGCLIP.CONTRASTIVE_WEIGHT = 1.0
    cfg.MODEL.SEGCLIP.SUPERPIXEL_WEIGHT = 1.0
    cfg.MODEL.SEGCLIP.RECONSTRUCTION_WEIGHT = 1.0
    # Where a vocabulary begins with "background": groups whose best affinity is below this are background.
    cfg.MODEL.SEGCLIP.BACKGROUND_THRESHOLD = 0.8


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.SEGCLIP
    if keys.DECODER_WIDTH % keys.DECODER_HEADS or keys.DECODER_WIDTH % 4:
        raise UserError(
            f"MODEL.SEGCLIP.DECODER_WIDTH {keys.DECODER_WIDTH} must be a multiple of 4 and of MODEL.SEGCLIP.DECODER_HEADS "
            f"{keys.DECODER_HEADS}"
        )
    if keys.HIDDEN_SHARE in (0, 1):
        raise UserError(
            f"MODEL.SEGCLIP.HIDDEN_SHARE is {keys.HIDDEN_SHARE}; it must lie between 0 and 1, both excluded"
        )


GROUPS = (
    KeyGroup(
        add=_add,
        choices={"MODEL.SEGCLIP.START": ("random", "content")},
        positive=(
            "MODEL.SEGCLIP.NUM_CENTRES",
            "MODEL.SEGCLIP.GROUP_BLOCKS",
            "MODEL.SEGCLIP.DECODER_WIDTH",
            "MODEL.SEGCLIP.DECODER_DEPTH",
            "MODEL.SEGCLIP.DECODER_HEADS",
            "MODEL.SEGCLIP.CAPTION_TOKENS",
        ),
        fraction=("MODEL.SEGCLIP.HIDDEN_SHARE", "MODEL.SEGCLIP.BACKGROUND_THRESHOLD"),
        check=_check,
    ),
)
