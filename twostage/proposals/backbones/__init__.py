"""Image backbones, registered in Detectron2's BACKBONE_REGISTRY as `resnet` and `swin`; both give res2 to res5."""

from twostage.proposals.backbones.resnet import ResNet, resnet
from twostage.proposals.backbones.swin import Swin, swin

__all__ = ["ResNet", "Swin", "resnet", "swin"]
