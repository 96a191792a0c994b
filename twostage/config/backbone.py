"""Image backbones of proposal generators."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.config.group import KeyGroup
from twostage.errors import UserError


def _add(cfg: CN) -> None:
    cfg.MODEL.BACKBONE.NAME = "resnet"  # resnet | swin
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


def _check(cfg: CN) -> None:
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
                raise UserError(f"MODEL.{key}.OUT_FEATURES has {name!r}; allowed: res2, res3, res4, res5")


GROUP = KeyGroup(
    add=_add,
    choices={
        "MODEL.BACKBONE.NAME": ("resnet", "swin"),
        "MODEL.RESNETS.STEM_TYPE": ("basic", "deeplab"),
        "MODEL.RESNETS.DEPTH": (14, 26, 50, 101, 152),
    },
    positive=("MODEL.SWIN.EMBED_DIM", "MODEL.SWIN.WINDOW_SIZE"),
    fraction=("MODEL.SWIN.DROP_PATH_RATE",),
    check=_check,
)
