"""MaskFormer's pixel decoder: a plain feature pyramid (MaskFormer, Cheng et al., NeurIPS 2021, section 3.4).

Legend: B images, C channels of the pyramid; maps of stride 4, 8, 16, 32 are called res2 to res5.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn


class FPNPixelDecoder(nn.Module):
    """Top-down pyramid: coarse maps are added to finer ones; the finest becomes the per-pixel embeddings.

    Level 1 is the finest map and the number of maps the coarsest. `layer_k` smooths level k, `adapter_k` brings backbone
    map k to C channels.
    """

    def __init__(self, *, channels: Mapping[str, int], width: int, mask_channels: int, norm: str = "GN") -> None:
        """
        Args:
            channels: backbone map -> its channels, finest first.
            width: C.
            mask_channels: channels of the per-pixel embeddings.
        """
        super().__init__()
        self.names = list(channels)
        for level, name in enumerate(self.names, start=1):
            is_coarsest = level == len(self.names)
            if not is_coarsest:
                self.add_module(f"adapter_{level}", _conv(channels[name], width, 1, norm))
            self.add_module(f"layer_{level}", _conv(channels[name] if is_coarsest else width, width, 3, norm))
        self.mask_features = Conv2d(width, mask_channels, kernel_size=3, padding=1)
        c2_xavier_fill(self.mask_features)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Per-pixel embeddings `[B, mask_channels, H / 4, W / 4]` from backbone maps by name."""
        x = F.relu(self.get_submodule(f"layer_{len(self.names)}")(features[self.names[-1]]))
        for level in range(len(self.names) - 1, 0, -1):
            lateral = self.get_submodule(f"adapter_{level}")(features[self.names[level - 1]])
            x = lateral + F.interpolate(x, size=lateral.shape[-2:], mode="nearest")
            x = F.relu(self.get_submodule(f"layer_{level}")(x))
        return self.mask_features(x)


def _conv(channels: int, out: int, size: int, norm: str) -> Conv2d:
    """Convolution without bias that keeps the grid, then `norm`."""
    layer = Conv2d(channels, out, kernel_size=size, padding=size // 2, bias=False, norm=get_norm(norm, out))
    c2_xavier_fill(layer)
    return layer
