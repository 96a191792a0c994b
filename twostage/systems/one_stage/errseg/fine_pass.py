"""CLIP embeddings at stride 16 of a ConvNeXt whose own lie at stride 32: a second pass of its last stage.

Legend: B images, D embedding size, h x w the grid of stage 2 (stride 16), C its channels.
"""

from __future__ import annotations

import copy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from twostage.clip.towers.convnext import dense_embeddings


class FinePass(nn.Module):
    """The downsampling before the last stage, run without its stride; the blocks behind it are CLIP's own.

    Its weights are a copy of CLIP's, frozen as these are; published checkpoints hold both.
    """

    def __init__(self, *, visual: Any) -> None:
        """
        Args:
            visual: open_clip's image tower, a ConvNeXt.
        """
        super().__init__()
        norm, strided = visual.trunk.stages[3].downsample
        self.norm = copy.deepcopy(norm)
        self.conv = nn.Conv2d(strided.in_channels, strided.out_channels, kernel_size=strided.kernel_size, padding=1)
        self.conv.load_state_dict(strided.state_dict())
        self.requires_grad_(False)

    def forward(self, visual: Any, res4: Tensor) -> Tensor:
        """Embeddings `[B, D, h, w]`, not normalised, of stage 2's output `[B, C, h, w]`."""
        # Padded on all sides, the kernel of two pixels gives one row and one column too many.
        x = self.conv(self.norm(res4))
        x = F.interpolate(x, size=res4.shape[-2:], mode="bilinear", align_corners=False)
        return dense_embeddings(visual, visual.trunk.stages[3].blocks(x))
