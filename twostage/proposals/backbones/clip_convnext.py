"""CLIP's ConvNeXt image tower as a backbone that starts where CLIP's training ended, and is trained on.

As FC-CLIP (Yu et al., NeurIPS 2023) takes it, but not frozen and in the place of a backbone pretrained on ImageNet.

Shapes: image `[B, 3, H, W]`; res2, res3, res4, res5 on strides 4, 8, 16, 32.
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from twostage.clip.convnext import Tower, hierarchical_features, require_convnext, stage_strides, stage_widths
from twostage.clip.loading import load_clip

STAGES = ("res2", "res3", "res4", "res5")


class ClipConvNeXt(Backbone):
    """The trunk of a ConvNeXt image tower; what CLIP has behind the last stage is left out."""

    def __init__(self, visual: Tower) -> None:
        super().__init__()
        self._out_features = list(STAGES)
        self._out_feature_channels = dict(zip(STAGES, stage_widths(visual), strict=True))
        self._out_feature_strides = dict(zip(STAGES, stage_strides(visual), strict=True))
        self.trunk = visual.trunk
        self.trunk.norm_pre, self.trunk.head = nn.Identity(), nn.Identity()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`[B, 3, H, W]` to the four maps by name."""
        return hierarchical_features(self, images)._asdict()


@BACKBONE_REGISTRY.register()
def clip_convnext(cfg: CfgNode, input_shape: ShapeSpec) -> ClipConvNeXt:
    """The image tower of `MODEL.BACKBONE.CLIP`; `input_shape` is Detectron2's, always RGB here.

    Raises:
        UserError: that CLIP has no ConvNeXt.
    """
    keys = cfg.MODEL.BACKBONE.CLIP
    clip, _ = load_clip(keys.NAME, pretrained=keys.PRETRAINED, load_weights=not cfg.MODEL.WEIGHTS)
    require_convnext(clip.visual, "MODEL.BACKBONE.NAME 'clip_convnext'")
    return ClipConvNeXt(clip.visual)
