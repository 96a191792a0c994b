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
        """Share `[B, out, 2h, 2w]` of the first convolution that comes from visual guidance `[B, V, 2h, 2w]`.

        It is the same for every class, so it is computed once per image.
        """
        weight = self.conv1.weight[:, self.upsampled : self.upsampled + self.visual]
        return F.conv2d(visual, weight, padding=1)

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
        maps = x.flatten(0, 1)
        y = self._upsampled_term(maps)
        if cost is not None:
            y += F.conv2d(cost.flatten(0, 1), self.conv1.weight[:, self.upsampled + self.visual :], padding=1)
        y = y.unflatten(0, x.shape[:2]) + (visual_term + self._bias_term(maps))[:, None]
        y = F.relu_(self.norm1(y.flatten(0, 1)))
        return F.relu_(self.norm2(self.conv2(y))).unflatten(0, x.shape[:2])

    def _upsampled_term(self, maps: Tensor) -> Tensor:
        """Share `[N, out, 2h, 2w]` of the first convolution that comes from upsampling `[N, C, h, w]`, without `up`'s bias.

        Both convolutions are linear, so they are one: each pixel of the finer grid sees 2x2 pixels of the coarser one, which
        takes half the work of going through the upsampled map.
        """
        kernel = merged_kernel(self.up.weight, self.conv1.weight[:, : self.upsampled])
        # Position p of the convolution (it pads by one) gives the rows 2p - 1 and 2p of the finer grid.
        return F.pixel_shuffle(F.conv2d(maps, kernel, padding=1), 2)[:, :, 1:-1, 1:-1]

    def _bias_term(self, maps: Tensor) -> Tensor:
        """What `up`'s bias adds to the first convolution: `[1, out, 2h, 2w]`, less at the border than inside."""
        height, width = maps.shape[-2:]
        assert self.up.bias is not None
        bias = self.up.bias.view(1, -1, 1, 1).expand(-1, -1, 2 * height, 2 * width)
        return F.conv2d(bias, self.conv1.weight[:, : self.upsampled], padding=1)


def merged_kernel(up: Tensor, convolution: Tensor) -> Tensor:
    """One 2x2 kernel `[4 O, C, 2, 2]` for a transposed convolution (kernel and stride 2) followed by a 3x3 convolution.

    Its outputs are in the order that `pixel_shuffle` wants: for each of the O channels the odd then the even row, and of
    these the odd then the even column, of the finer grid.

    Args:
        up: `[C, M, 2, 2]`.
        convolution: `[O, M, 3, 3]`.
    """
    # paths[r, t, k, u]: fine row r (0: odd, 1: even) sees coarse row t through kernel row k where it lies on fine row u.
    paths = up.new_zeros(2, 2, 3, 2)
    for fine, coarse, row, inside in (
        (0, 0, 0, 0),
        (0, 0, 1, 1),
        (0, 1, 2, 0),
        (1, 0, 0, 1),
        (1, 1, 1, 0),
        (1, 1, 2, 1),
    ):
        paths[fine, coarse, row, inside] = 1
    return torch.einsum("omyx,ptyu,qsxv,cmuv->opqcts", convolution, paths, paths, up).flatten(0, 2)
