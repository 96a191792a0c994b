"""Image backbones; all give res2 to res5. They are in Detectron2's BACKBONE_REGISTRY, too, by the same names."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone

from twostage.proposals.backbones.resnet import ResNet, resnet
from twostage.proposals.backbones.swin import Swin, swin

__all__ = ["ResNet", "Swin", "build_backbone", "resnet", "swin"]

# By MODEL.BACKBONE.NAME.
BACKBONES = {"resnet": resnet, "swin": swin}


def build_backbone(cfg: CfgNode) -> Backbone:
    """The backbone of `MODEL.BACKBONE.NAME` for RGB pictures."""
    return BACKBONES[cfg.MODEL.BACKBONE.NAME](cfg, ShapeSpec(channels=3))
