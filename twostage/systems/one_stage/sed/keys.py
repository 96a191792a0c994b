"""Keys of SED."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError, shown
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.SED = CN()
    # Side in pixels of the square that every image is resized to, whatever its shape.
    cfg.MODEL.SED.RESOLUTION = 768
    # Channels of the embedded cost map, and of the output of each decoder stage.
    cfg.MODEL.SED.HIDDEN_CHANNELS = 128
    cfg.MODEL.SED.DECODER_CHANNELS = [64, 32, 16]
    # Channels of the guidance that each stage takes from the backbone, and of what it takes from the cost map.
    cfg.MODEL.SED.GUIDANCE_CHANNELS = [32, 16, 8]
    # Depthwise kernel of the spatial aggregation, per stage.
    cfg.MODEL.SED.KERNEL_SIZES = [9, 9, 9]
    cfg.MODEL.SED.CLASS_HEADS = 4
    # Side of the cells that the class aggregation averages, in training and in evaluation.
    cfg.MODEL.SED.TRAIN_POOLING = 2
    cfg.MODEL.SED.TEST_POOLING = 1
    # Classes decoded at a time in evaluation: memory against speed, not the result.
    cfg.MODEL.SED.CLASS_BLOCK = 16
    # Stochastic depth of CLIP's trunk and dropout of its projection head, in training.
    cfg.MODEL.SED.CLIP_DROP_PATH = 0.0
    cfg.MODEL.SED.CLIP_DROPOUT = 0.0
    # Training images are zero-padded, after normalisation, to a multiple of this before they are resized.
    cfg.MODEL.SED.SIZE_DIVISIBILITY = 32


def _check(cfg: CN) -> None:
    sed = cfg.MODEL.SED
    for key in ("DECODER_CHANNELS", "GUIDANCE_CHANNELS", "KERNEL_SIZES"):
        values = sed[key]
        if len(values) != 3 or any(not isinstance(v, int) or v < 1 for v in values):
            raise UserError(
                f"MODEL.SED.{key} is {shown(values)}; it must hold three whole numbers, one per decoder stage"
            )
    if any(size % 2 == 0 for size in sed.KERNEL_SIZES):
        raise UserError(f"MODEL.SED.KERNEL_SIZES is {shown(sed.KERNEL_SIZES)}; kernels must be odd")
    widths = [sed.HIDDEN_CHANNELS, *sed.DECODER_CHANNELS]
    for width, guidance in zip(widths[:-1], sed.GUIDANCE_CHANNELS, strict=True):
        if width % sed.CLASS_HEADS:
            raise UserError(f"decoder channels {width} must be a multiple of MODEL.SED.CLASS_HEADS {sed.CLASS_HEADS}")
        if guidance >= width:
            raise UserError(
                f"MODEL.SED.GUIDANCE_CHANNELS has {guidance}; each must be less than its stage's channels, here {width}"
            )


GROUPS = (
    KeyGroup(
        add=_add,
        positive=(
            "MODEL.SED.RESOLUTION",
            "MODEL.SED.HIDDEN_CHANNELS",
            "MODEL.SED.CLASS_HEADS",
            "MODEL.SED.TRAIN_POOLING",
            "MODEL.SED.TEST_POOLING",
            "MODEL.SED.CLASS_BLOCK",
            "MODEL.SED.SIZE_DIVISIBILITY",
        ),
        fraction=("MODEL.SED.CLIP_DROP_PATH", "MODEL.SED.CLIP_DROPOUT"),
        sides=("MODEL.SED.RESOLUTION", "MODEL.SED.SIZE_DIVISIBILITY"),
        check=_check,
    ),
)
