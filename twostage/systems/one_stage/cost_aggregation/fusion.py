"""Skip-layer fusion: a class map is upsampled, joined with guidance and refined (SED, section 3.2; CAT-Seg, section 3.4).

Legend: B images, t classes, C channels, h x w grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UpsamplingFusion(nn.Module):
    """Doubles the grid by a transposed convolution, appends guidance, then two 3x3 convolutions with group norm.

    Order of the joined channels: upsampled, visual guidance, cost guidance.
    """

    def __init__(
        self, *, in_channels: int, out_channels: int, visual_channels: int, cost_channels: int = 0, group_size: int = 16
    ) -> None:
        """
        Args:
            visual_channels: of the guidance that all classes of an image share; that many fewer come from upsampling.
            cost_channels: of the guidance that each class has for itself.
            group_size: channels of a group norm group.
        """
        super().__init__()
        self.upsampled = in_channels - visual_channels
        self.visual = visual_channels
        joined = self.upsampled + visual_channels + cost_channels
        groups = max(1, out_channels // group_size)
        self.up = nn.ConvTranspose2d(in_channels, self.upsampled, kernel_size=2, stride=2)
        self.conv1 = nn.Conv2d(joined, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, out_channels)

    def visual_term(self, visual: Tensor) -> Tensor:
        """Share `[B, out, 2h, 2w]` of the first convolution that comes from visual guidance `[B, V, 2h, 2w]`.

        It is the same for every class, so it is computed once per image.
        """
        weight = self.conv1.weight[:, self.upsampled : self.upsampled + self.visual]
        return F.conv2d(visual, weight, padding=1)

    def forward(self, x: Tensor, visual_term: Tensor, cost: Tensor | None = None) -> Tensor:
        """Refined maps `[B, t, out, 2h, 2w]`.

        Args:
            x: `[B, t, C, h, w]`.
            visual_term: see there.
            cost: guidance per class `[B, t, G, 2h, 2w]`.
        """
        own = self.up(x.flatten(0, 1))
        weight = self.conv1.weight[:, : self.upsampled]
        if cost is not None:
            own = torch.cat([own, cost.flatten(0, 1)], dim=1)
            weight = torch.cat([weight, self.conv1.weight[:, self.upsampled + self.visual :]], dim=1)
        y = F.conv2d(own, weight, padding=1).unflatten(0, x.shape[:2]) + visual_term[:, None]
        y = F.relu(self.norm1(y.flatten(0, 1)))
        return F.relu(self.norm2(self.conv2(y))).unflatten(0, x.shape[:2])
