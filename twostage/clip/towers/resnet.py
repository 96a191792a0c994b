"""Dense features of CLIP's ResNet (the ModifiedResNet of Radford et al., ICML 2021, as open_clip builds it).

MaskCLIP (Zhou et al., ECCV 2022, section 3.2) drops the attention of the final pooling and keeps its value and output
projections, which then act as 1 x 1 convolutions on the last stage: stride 32, no position embedding.

Legend: B images, h x w the grid of stride 32, C the last stage's channels, D the embedding size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from twostage.clip.towers.vit import Tower


def is_clip_resnet(visual: Tower) -> bool:
    """Whether `visual` is CLIP's ResNet with attention pooling."""
    return all(hasattr(visual, name) for name in ("stem", "layer4", "attnpool"))


def resnet_stages(visual: Tower, images: Tensor) -> list[Tensor]:
    """The four stages `[B, C_i, h, w]`, strides 4 to 32, of normalised images `[B, 3, H, W]`."""
    x = visual.stem(images)
    features = []
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = stage(x)
        features.append(x)
    return features


def stage_widths(visual: Tower) -> list[int]:
    """Channels of the four stages."""
    layers = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
    return [int(layer[-1].conv3.out_channels) for layer in layers]


def run_resnet(visual: Tower, images: Tensor) -> Tensor:
    """Last stage `[B, C, h, w]` of normalised images `[B, 3, H, W]`."""
    return resnet_stages(visual, images)[-1]


def resnet_dense(visual: Tower, x: Tensor) -> Tensor:
    """Embeddings `[B, D, h, w]` of last-stage features `[B, C, h, w]`: value, then output projection."""
    return _pointwise(visual.attnpool.c_proj, _pointwise(visual.attnpool.v_proj, x))


def resnet_keys(visual: Tower, x: Tensor) -> Tensor:
    """Key projection `[B, h * w, C]` of last-stage features `[B, C, h, w]`."""
    return _pointwise(visual.attnpool.k_proj, x).flatten(2).transpose(1, 2)


def _pointwise(linear: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x.movedim(1, -1), linear.weight, linear.bias).movedim(-1, 1)
