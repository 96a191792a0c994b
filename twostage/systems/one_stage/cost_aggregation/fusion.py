"""Skip-layer fusion: a class map is upsampled, joined with guidance and refined (SED, section 3.2; CAT-Seg, section 3.4).

Legend: B images, t classes, C channels, h x w grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.recomputation import recomputable


class UpsamplingFusion(nn.Module):
    """Doubles the grid by a transposed convolution, appends guidance, then two 3x3 convolutions with group norm.

    Order of the joined channels: upsampled, visual guidance, cost guidance.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        visual_channels: int,
        cost_channels: int = 0,
        upsampled_channels: int = 0,
        group_size: int = 16,
    ) -> None:
        """
        Args:
            visual_channels: of the guidance that all classes of an image share.
            cost_channels: of the guidance that each class has for itself.
            upsampled_channels: what comes from upsampling; 0 for `in_channels` less those of visual guidance.
            group_size: channels of a group norm group.
        """
        super().__init__()
        self.upsampled = upsampled_channels or in_channels - visual_channels
        self.visual = visual_channels
        joined = self.upsampled + visual_channels + cost_channels
        groups = max(1, out_channels // group_size)
        self.up: nn.ConvTranspose2d | nn.Conv2d = nn.ConvTranspose2d(
            in_channels, self.upsampled, kernel_size=2, stride=2
        )
        self.conv1 = nn.Conv2d(joined, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, out_channels)

    def visual_term(self, visual: Tensor) -> Tensor:
        """Share `[B, out, 2h, 2w]` of the first convolution that comes from visual guidance `[B, V, 2h, 2w]` and biases.

        It is the same for every class, so it is computed once per image.
        """
        weight = self.conv1.weight[:, self.upsampled : self.upsampled + self.visual]
        return F.conv2d(channels_last(visual), weight, padding=1) + self._bias_term(visual)

    def upsample(self, x: Tensor) -> Tensor:
        """`[B, t, C, h, w]` -> `[B, t, U, 2h, 2w]`, which `forward` does without making it."""
        return self.up(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    @recomputable
    def forward(self, x: Tensor, visual_term: Tensor, cost: Tensor | None = None) -> Tensor:
        """Refined maps `[B, t, out, 2h, 2w]`.

        Args:
            x: `[B, t, C, h, w]`.
            visual_term: see there.
            cost: guidance per class `[B, t, G, 2h, 2w]`.
        """
        y = self._upsampled_term(channels_last(x.flatten(0, 1)))
        if cost is not None:
            weight = self.conv1.weight[:, self.upsampled + self.visual :]
            y += F.conv2d(channels_last(cost.flatten(0, 1)), weight, padding=1)
        y = y.unflatten(0, x.shape[:2]).add_(visual_term[:, None])
        y = F.relu_(self.norm1(y.flatten(0, 1)))
        return F.relu_(self.norm2(self.conv2(y))).unflatten(0, x.shape[:2])

    def _upsampled_term(self, maps: Tensor) -> Tensor:
        """Share `[N, out, 2h, 2w]` of the first convolution that comes from upsampling `[N, C, h, w]`, without `up`'s bias.

        Both convolutions are linear, so they are one: each pixel of the finer grid sees 2x2 pixels of the coarser one, which
        takes half the work of going through the upsampled map.
        """
        kernel = merged_kernel(self.up.weight, self.conv1.weight[:, : self.upsampled])
        return F.conv_transpose2d(maps, kernel, stride=2, padding=1)

    def _bias_term(self, visual: Tensor) -> Tensor:
        """What `up`'s bias adds to the first convolution: `[1, out, 2h, 2w]`, less at the border than inside."""
        assert self.up.bias is not None
        bias = self.up.bias.view(1, -1, 1, 1).expand(-1, -1, *visual.shape[-2:])
        return F.conv2d(bias, self.conv1.weight[:, : self.upsampled], padding=1)


def channels_last(maps: Tensor) -> Tensor:
    """`[N, C, h, w]` with channels next to each other in memory on a CPU, where convolutions of few channels are faster so."""
    if maps.device.type != "cpu" or torch.compiler.is_exporting():
        return maps
    return maps.contiguous(memory_format=torch.channels_last)


def merged_kernel(up: Tensor, convolution: Tensor) -> Tensor:
    """`[C, O, 4, 4]`: one transposed convolution (stride 2, padding 1) for a transposed one (kernel and stride 2) and a 3x3.

    The pixel of the finer grid at row u of `up`'s kernel is read by row y of the 3x3 for the output at row u - y + 2 of the
    merged kernel, which is a convolution of the two kernels.

    Args:
        up: `[C, M, 2, 2]`.
        convolution: `[O, M, 3, 3]`.
    """
    return F.conv2d(up, convolution, padding=2)
