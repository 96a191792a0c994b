"""Keys of ERR-Seg."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError, shown
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.ERRSEG = CN()
    keys = cfg.MODEL.ERRSEG
    # Side in pixels of the square that every image is resized to, in training and in evaluation.
    keys.RESOLUTION = 640
    keys.TEST_RESOLUTION = 640
    # Classes kept per image, in training (those that are there first) and in evaluation; all where there are fewer. The
    # published figures use 16 to 48 by data set.
    keys.SLOTS = 32
    keys.TEST_SLOTS = 32
    # Channels of each embedded cost map and of each map that image guidance comes from, before they are fused.
    keys.SOURCE_CHANNELS = 256
    # Aggregation: layers, channels (of guidance too), attention heads, stochastic depth in training (linear over layers).
    keys.LAYERS = 4
    keys.CHANNELS = 128
    keys.HEADS = 4
    keys.DROP_PATH = 0.1
    # Decoder: channels of its three stages, and of their guidance.
    keys.DECODER_CHANNELS = [64, 32, 16]
    keys.DECODER_GUIDANCE_CHANNELS = [32, 16, 8]
    # Classes worked on at a time in evaluation: memory against speed, not the result.
    keys.CLASS_BLOCK = 16
    # Stochastic depth of CLIP's trunk and dropout of its projection head, in training.
    keys.CLIP_DROP_PATH = 0.0
    keys.CLIP_DROPOUT = 0.0
    # Training images are zero-padded, after normalisation, to a multiple of this before they are resized.
    keys.SIZE_DIVISIBILITY = 640


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.ERRSEG
    if keys.CHANNELS % keys.HEADS:
        raise UserError(f"MODEL.ERRSEG.CHANNELS {keys.CHANNELS} must be a multiple of MODEL.ERRSEG.HEADS {keys.HEADS}")
    for key in ("DECODER_CHANNELS", "DECODER_GUIDANCE_CHANNELS"):
        values = keys[key]
        if len(values) != 3 or any(not isinstance(v, int) or v < 1 for v in values):
            raise UserError(
                f"MODEL.ERRSEG.{key} is {shown(values)}; it must hold three whole numbers, one per decoder stage"
            )


GROUPS = (
    KeyGroup(
        add=_add,
        positive=tuple(
            f"MODEL.ERRSEG.{key}"
            for key in (
                "RESOLUTION",
                "TEST_RESOLUTION",
                "SLOTS",
                "TEST_SLOTS",
                "SOURCE_CHANNELS",
                "LAYERS",
                "CHANNELS",
                "HEADS",
                "CLASS_BLOCK",
                "SIZE_DIVISIBILITY",
            )
        ),
        fraction=("MODEL.ERRSEG.DROP_PATH", "MODEL.ERRSEG.CLIP_DROP_PATH", "MODEL.ERRSEG.CLIP_DROPOUT"),
        sides=("MODEL.ERRSEG.RESOLUTION", "MODEL.ERRSEG.TEST_RESOLUTION", "MODEL.ERRSEG.SIZE_DIVISIBILITY"),
        check=_check,
    ),
)
