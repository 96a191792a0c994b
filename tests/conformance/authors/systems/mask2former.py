"""Mask2Former's code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from conformance.authors.contract import Authors, Request
from twostage.errors import UserError

# By the depth of the ResNet.
_FILES = {
    50: "configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml",
    101: "configs/coco/panoptic-segmentation/maskformer2_R101_bs16_50ep.yaml",
}
# Their compiled operator needs CUDA. Calling it fails on a CPU, where their code goes on with its own `grid_sample`.
DEFORMABLE = {"MultiScaleDeformableAttention": "compiled for CUDA; on a CPU their code samples by torch's grid_sample"}


def semantic_only(cfg: Any) -> None:
    """Leave out panoptic segments and instances, which a label map does not need, and keep the order of operations."""
    test = cfg.MODEL.MASK_FORMER.TEST
    test.PANOPTIC_ON = test.INSTANCE_ON = False
    test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = True


class Mask2Former(Authors):
    """https://github.com/facebookresearch/Mask2Former, trained on COCO panoptic."""

    repository = "facebookresearch/Mask2Former"
    package = "mask2former"
    requires = {"scipy": "scipy", "timm": "timm"}
    empty = DEFORMABLE

    def build(self, request: Request) -> nn.Module:
        from mask2former.config import add_maskformer2_config
        from mask2former.maskformer_model import MaskFormer

        keys = request.cfg.MODEL
        if keys.BACKBONE.NAME != "resnet" or keys.RESNETS.DEPTH not in _FILES:
            raise UserError("of Mask2Former the comparison knows ResNet-50 and 101 on COCO; take mask2former_r50_coco")
        cfg = request.config(_FILES[keys.RESNETS.DEPTH], _deeplab_keys, add_maskformer2_config)
        semantic_only(cfg)
        return MaskFormer(cfg)

    def set_words(self, model: Any, names: Sequence[str], text: Any) -> None:
        """Its classes are those it is built for."""


def _deeplab_keys(cfg: Any) -> None:
    from detectron2.projects.deeplab import add_deeplab_config

    add_deeplab_config(cfg)


AUTHORS = Mask2Former()
