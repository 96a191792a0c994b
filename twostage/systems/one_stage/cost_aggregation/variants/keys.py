"""Keys of guidance from another frozen ViT, in cost-aggregation systems (CAT-Seg, SED)."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError, shown
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.VIT_GUIDE = CN()
    # A ViT by timm's name ("vit_base_patch14_dinov2", "vit_small_patch16_dinov3"); "": the system's own guidance.
    cfg.MODEL.VIT_GUIDE.NAME = ""
    # One of timm's tags for it ("lvd142m"), a file, `hf://owner/repository/file`, an https address, or "" for random weights
    # (for a MODEL.WEIGHTS file, which holds it as well, and for tests). Its input statistics are those of the tag, else of
    # timm's first one.
    cfg.MODEL.VIT_GUIDE.PRETRAINED = ""
    # Two earlier blocks that guide the decoder beside the last one (4: the output of the fourth).
    cfg.MODEL.VIT_GUIDE.TAPS = [4, 8]


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.VIT_GUIDE
    if len(keys.TAPS) != 2:
        raise UserError(f"MODEL.VIT_GUIDE.TAPS is {shown(keys.TAPS)}; it must hold two blocks")
    if keys.PRETRAINED and not keys.NAME:
        raise UserError(f"MODEL.VIT_GUIDE.PRETRAINED {keys.PRETRAINED!r} needs MODEL.VIT_GUIDE.NAME")
    if keys.NAME and cfg.MODEL.CATSEG.BACKBONE.ENABLED:
        raise UserError(
            f"MODEL.VIT_GUIDE.NAME {keys.NAME!r} and MODEL.CATSEG.BACKBONE.ENABLED True contradict each other: guidance comes "
            "from one of them"
        )


GROUPS = (KeyGroup(add=_add, paths=("MODEL.VIT_GUIDE.PRETRAINED",), check=_check),)
