"""Keys of CAT-Seg."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError, shown
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.CATSEG = CN()
    # Side in pixels of the square that every view is resized to for CLIP.
    cfg.MODEL.CATSEG.RESOLUTION = 384
    # CLIP blocks whose output guides the decoder (4: after the fourth block), and channels it is upsampled to.
    cfg.MODEL.CATSEG.TAPS = [4, 8]
    cfg.MODEL.CATSEG.TAP_CHANNELS = [256, 128]
    # Aggregator: layers, channels, attention heads, side of an attention window on the patch grid.
    cfg.MODEL.CATSEG.LAYERS = 2
    cfg.MODEL.CATSEG.CHANNELS = 128
    cfg.MODEL.CATSEG.HEADS = 4
    cfg.MODEL.CATSEG.WINDOW = 12
    # Side of the cells in which class aggregation averages pixels, in training and in evaluation.
    cfg.MODEL.CATSEG.POOLING = 2
    cfg.MODEL.CATSEG.TEST_POOLING = 1
    # Length of the class axis: fewer classes are padded with a learnt one, of more only the best per view are aggregated.
    # 0: exactly the classes there are.
    cfg.MODEL.CATSEG.CLASS_SLOTS = 256
    # Decoder: channels of its two stages, and of their guidance.
    cfg.MODEL.CATSEG.DECODER_CHANNELS = [64, 32]
    cfg.MODEL.CATSEG.DECODER_GUIDANCE_CHANNELS = [32, 16]
    # Channels of appearance and text guidance.
    cfg.MODEL.CATSEG.GUIDANCE_CHANNELS = 128
    # Images are zero-padded, after normalisation, to a multiple of this before they are resized as a whole.
    cfg.MODEL.CATSEG.SIZE_DIVISIBILITY = 32
    # CLIP's last block adds each token's value to: class_token (v2) | own (v1, the token itself).
    cfg.MODEL.CATSEG.LAST_BLOCK_RESIDUAL = "class_token"
    # v1: guidance from res2 to res4 of MODEL.BACKBONE instead of tapped CLIP blocks, on views of its own resolution and input
    # statistics; frozen where SOLVER.BACKBONE_MULTIPLIER is 0.
    cfg.MODEL.CATSEG.BACKBONE = CN()
    cfg.MODEL.CATSEG.BACKBONE.ENABLED = False
    cfg.MODEL.CATSEG.BACKBONE.RESOLUTION = 384
    cfg.MODEL.CATSEG.BACKBONE.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.CATSEG.BACKBONE.PIXEL_STD = [58.395, 57.12, 57.375]
    # Ablations of the paper: aggregate image and text features instead of their cost; leave out spatial or class
    # aggregation, or the guidance of both by embeddings.
    cfg.MODEL.CATSEG.AGGREGATE = "cost"
    cfg.MODEL.CATSEG.SPATIAL_AGGREGATION = True
    cfg.MODEL.CATSEG.CLASS_AGGREGATION = True
    cfg.MODEL.CATSEG.EMBEDDING_GUIDANCE = True


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.CATSEG
    if keys.CHANNELS % keys.HEADS:
        raise UserError(f"MODEL.CATSEG.CHANNELS {keys.CHANNELS} must be a multiple of MODEL.CATSEG.HEADS {keys.HEADS}")
    for key in ("TAPS", "TAP_CHANNELS", "DECODER_CHANNELS", "DECODER_GUIDANCE_CHANNELS"):
        if len(keys[key]) != 2:
            raise UserError(
                f"MODEL.CATSEG.{key} is {shown(keys[key])}; the decoder has two stages, so it needs two numbers"
            )
    # PCA-Seg looks as CAT-Seg does.
    looks_alike = cfg.MODEL.META_ARCHITECTURE in ("CATSeg", "PCASeg")
    if looks_alike and cfg.TEST.SLIDING.ENABLED and not cfg.TEST.SLIDING.CANVAS:
        raise UserError("CAT-Seg's sliding window works on a square canvas; set TEST.SLIDING.CANVAS (published: 640)")
    if keys.CLASS_SLOTS < 0:
        raise UserError(f"MODEL.CATSEG.CLASS_SLOTS is {keys.CLASS_SLOTS}; it must be 0 (no fixed length) or more")


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "MODEL.CATSEG.AGGREGATE": ("cost", "feature"),
            "MODEL.CATSEG.LAST_BLOCK_RESIDUAL": ("class_token", "own"),
        },
        positive=tuple(
            f"MODEL.CATSEG.{key}"
            for key in (
                "TAP_CHANNELS",
                "DECODER_CHANNELS",
                "DECODER_GUIDANCE_CHANNELS",
                "RESOLUTION",
                "BACKBONE.RESOLUTION",
                "LAYERS",
                "CHANNELS",
                "HEADS",
                "WINDOW",
                "POOLING",
                "TEST_POOLING",
                "GUIDANCE_CHANNELS",
                "SIZE_DIVISIBILITY",
            )
        ),
        sides=("MODEL.CATSEG.RESOLUTION", "MODEL.CATSEG.BACKBONE.RESOLUTION", "MODEL.CATSEG.SIZE_DIVISIBILITY"),
        check=_check,
    ),
)
