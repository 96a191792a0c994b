"""Image backbones, registered in Detectron2's BACKBONE_REGISTRY as `resnet`, `swin` and `clip_convnext`; all give res2 to res5."""

from twostage.proposals.backbones.clip_convnext import ClipConvNeXt, clip_convnext
from twostage.proposals.backbones.resnet import ResNet, resnet
from twostage.proposals.backbones.swin import Swin, swin

__all__ = ["ClipConvNeXt", "ResNet", "Swin", "clip_convnext", "resnet", "swin"]
