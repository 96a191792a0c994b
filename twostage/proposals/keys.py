"""Keys of the mask generators, their backbones and their losses."""

from __future__ import annotations

from typing import Literal, get_args

from detectron2.config import CfgNode as CN

from twostage.errors import UserError, shown
from twostage.keys import KeyGroup

# What tells a mask's class in Mask2Former. closed: a linear layer over MODEL.MASK2FORMER.NUM_CLASSES classes and void;
# agnostic: the same over "object" and void, whatever the training set's classes; text: cosine with CLIP's text embeddings.
Classifier = Literal["closed", "agnostic", "text"]


def _add_mask2former(cfg: CN) -> None:
    cfg.MODEL.MASK2FORMER = CN()
    cfg.MODEL.MASK2FORMER.NUM_QUERIES = 100
    # Channels of queries and levels, and of the masks' inner products.
    cfg.MODEL.MASK2FORMER.WIDTH = 256
    cfg.MODEL.MASK2FORMER.MASK_WIDTH = 256
    cfg.MODEL.MASK2FORMER.HEADS = 8
    # Pixel decoder: layers, width of the feed-forward layers, points per level and head.
    cfg.MODEL.MASK2FORMER.ENCODER_LAYERS = 6
    cfg.MODEL.MASK2FORMER.ENCODER_HIDDEN = 1024
    cfg.MODEL.MASK2FORMER.POINTS = 4
    # Transformer decoder: layers (the published DEC_LAYERS less one) and width of the feed-forward layers.
    cfg.MODEL.MASK2FORMER.DECODER_LAYERS = 9
    cfg.MODEL.MASK2FORMER.DECODER_HIDDEN = 2048
    # What tells a mask's class, see Classifier.
    cfg.MODEL.MASK2FORMER.CLASSIFIER = "closed"
    cfg.MODEL.MASK2FORMER.NUM_CLASSES = 150
    # Hidden channels of the text classifier.
    cfg.MODEL.MASK2FORMER.TEXT_HIDDEN = 1024
    # True: class scores are summed at the image's size, then resized (semantic models); False: masks are resized
    # first (models that also give panoptic and instance output).
    cfg.MODEL.MASK2FORMER.RESIZE_SCORES = True
    # Images are zero-padded, after normalisation, to a multiple of this.
    cfg.MODEL.MASK2FORMER.SIZE_DIVISIBILITY = 32


def _check_mask2former(cfg: CN) -> None:
    keys = cfg.MODEL.MASK2FORMER
    for divisor, name in ((keys.HEADS, "MODEL.MASK2FORMER.HEADS"), (32, "the 32 groups of its norms"), (4, "4")):
        if keys.WIDTH % divisor:
            raise UserError(f"MODEL.MASK2FORMER.WIDTH is {keys.WIDTH}; it must be a multiple of {name} ({divisor})")


def _add_maskformer(cfg: CN) -> None:
    cfg.MODEL.MASKFORMER = CN()
    cfg.MODEL.MASKFORMER.NUM_QUERIES = 100
    # Channels of queries and feature pyramid, and of the per-pixel embeddings that masks are made from.
    cfg.MODEL.MASKFORMER.WIDTH = 256
    cfg.MODEL.MASKFORMER.MASK_CHANNELS = 256
    # Transformer decoder: layers, attention heads, width inside the feed-forward layers.
    cfg.MODEL.MASKFORMER.LAYERS = 6
    cfg.MODEL.MASKFORMER.HEADS = 8
    cfg.MODEL.MASKFORMER.FEED_FORWARD = 2048
    cfg.MODEL.MASKFORMER.DROPOUT = 0.1


def _check_maskformer(cfg: CN) -> None:
    keys = cfg.MODEL.MASKFORMER
    for divisor, meaning in ((keys.HEADS, "MODEL.MASKFORMER.HEADS"), (32, "the groups of its norms")):
        if keys.WIDTH % divisor:
            raise UserError(f"MODEL.MASKFORMER.WIDTH {keys.WIDTH} must be a multiple of {meaning} ({divisor})")


def _add_mask_loss(cfg: CN) -> None:
    # Set-prediction losses of mask-classification systems (Mask2Former), also the matching costs.
    cfg.MODEL.MASK_LOSS = CN()
    cfg.MODEL.MASK_LOSS.CLASS_WEIGHT = 2.0
    cfg.MODEL.MASK_LOSS.MASK_WEIGHT = 5.0
    cfg.MODEL.MASK_LOSS.DICE_WEIGHT = 5.0
    # Weight of the void class in the classification loss.
    cfg.MODEL.MASK_LOSS.NO_OBJECT_WEIGHT = 0.1
    # Pixel-wise mask loss and cost: binary cross-entropy, or the focal form of MaskFormer.
    cfg.MODEL.MASK_LOSS.FOCAL = False
    # Points per mask (0: every pixel, as in MaskFormer), candidates per point and share of points taken where the mask is
    # most uncertain (PointRend).
    cfg.MODEL.MASK_LOSS.NUM_POINTS = 12544
    cfg.MODEL.MASK_LOSS.OVERSAMPLE_RATIO = 3.0
    cfg.MODEL.MASK_LOSS.IMPORTANCE_SAMPLE_RATIO = 0.75


def _check_mask_loss(cfg: CN) -> None:
    if cfg.MODEL.MASK_LOSS.NUM_POINTS < 0:
        raise UserError(
            f"MODEL.MASK_LOSS.NUM_POINTS is {cfg.MODEL.MASK_LOSS.NUM_POINTS}; it must be 0 (all pixels) or more"
        )
    if cfg.MODEL.MASK_LOSS.OVERSAMPLE_RATIO < 1:
        raise UserError(
            f"MODEL.MASK_LOSS.OVERSAMPLE_RATIO is {cfg.MODEL.MASK_LOSS.OVERSAMPLE_RATIO}; points are chosen among so many "
            "times as many, so it must be at least 1"
        )


def _add_backbone(cfg: CN) -> None:
    cfg.MODEL.BACKBONE.NAME = "resnet"
    # MODEL.RESNETS is Detectron2's; depths are 14, 26 (toy), 50, 101 and 152, MODEL.BACKBONE.FREEZE_AT counts stages.
    # basic: one 7x7 convolution; deeplab: three 3x3 ones (ResNet-50c, -101c), MODEL.RESNETS.STEM_OUT_CHANNELS 128.
    cfg.MODEL.RESNETS.STEM_TYPE = "basic"
    # Dilations of res5's blocks, times MODEL.RESNETS.RES5_DILATION.
    cfg.MODEL.RESNETS.RES5_MULTI_GRID = [1, 1, 1]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.SWIN = CN()
    # Width of the first stage; every stage doubles it.
    cfg.MODEL.SWIN.EMBED_DIM = 96
    # Blocks and attention heads of each stage.
    cfg.MODEL.SWIN.DEPTHS = [2, 2, 6, 2]
    cfg.MODEL.SWIN.HEADS = [3, 6, 12, 24]
    # Side of the attention windows, in tokens.
    cfg.MODEL.SWIN.WINDOW_SIZE = 7
    # Stochastic depth of the last block in training; earlier blocks have proportionally less.
    cfg.MODEL.SWIN.DROP_PATH_RATE = 0.3
    cfg.MODEL.SWIN.OUT_FEATURES = ["res2", "res3", "res4", "res5"]


def _check_backbone(cfg: CN) -> None:
    swin = cfg.MODEL.SWIN
    if len(swin.DEPTHS) != len(swin.HEADS):
        raise UserError(f"MODEL.SWIN.DEPTHS {swin.DEPTHS} and MODEL.SWIN.HEADS {swin.HEADS} must be of equal length")
    for stage, heads in enumerate(swin.HEADS):
        width = swin.EMBED_DIM * 2**stage
        if width % heads:
            raise UserError(f"MODEL.SWIN.HEADS has {heads} for stage {stage}; it must divide the stage's width {width}")
    for key, names in (("RESNETS", cfg.MODEL.RESNETS.OUT_FEATURES), ("SWIN", swin.OUT_FEATURES)):
        for name in names:
            if name not in ("res2", "res3", "res4", "res5"):
                raise UserError(f"MODEL.{key}.OUT_FEATURES has {shown(name)}; allowed: res2, res3, res4, res5")


GROUPS = (
    KeyGroup(
        add=_add_mask2former,
        choices={"MODEL.MASK2FORMER.CLASSIFIER": get_args(Classifier)},
        positive=tuple(
            f"MODEL.MASK2FORMER.{name}"
            for name in (
                "NUM_QUERIES",
                "WIDTH",
                "MASK_WIDTH",
                "HEADS",
                "ENCODER_HIDDEN",
                "POINTS",
                "DECODER_LAYERS",
                "DECODER_HIDDEN",
                "NUM_CLASSES",
                "TEXT_HIDDEN",
                "SIZE_DIVISIBILITY",
            )
        ),
        sides=("MODEL.MASK2FORMER.SIZE_DIVISIBILITY",),
        check=_check_mask2former,
    ),
    KeyGroup(
        add=_add_maskformer,
        positive=(
            "MODEL.MASKFORMER.NUM_QUERIES",
            "MODEL.MASKFORMER.WIDTH",
            "MODEL.MASKFORMER.MASK_CHANNELS",
            "MODEL.MASKFORMER.LAYERS",
            "MODEL.MASKFORMER.HEADS",
            "MODEL.MASKFORMER.FEED_FORWARD",
        ),
        fraction=("MODEL.MASKFORMER.DROPOUT",),
        check=_check_maskformer,
    ),
    KeyGroup(
        add=_add_mask_loss,
        check=_check_mask_loss,
        not_negative=tuple(f"MODEL.MASK_LOSS.{key}_WEIGHT" for key in ("CLASS", "MASK", "DICE", "NO_OBJECT")),
        fraction=("MODEL.MASK_LOSS.IMPORTANCE_SAMPLE_RATIO",),
    ),
    KeyGroup(
        add=_add_backbone,
        choices={
            "MODEL.BACKBONE.NAME": ("resnet", "swin"),
            "MODEL.RESNETS.STEM_TYPE": ("basic", "deeplab"),
            "MODEL.RESNETS.DEPTH": (14, 26, 50, 101, 152),
        },
        positive=("MODEL.SWIN.EMBED_DIM", "MODEL.SWIN.WINDOW_SIZE", "MODEL.SWIN.DEPTHS", "MODEL.SWIN.HEADS"),
        fraction=("MODEL.SWIN.DROP_PATH_RATE",),
        check=_check_backbone,
    ),
)
