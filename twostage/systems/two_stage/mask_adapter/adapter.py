"""The network that turns masks into weight maps, and embeddings pooled by these (Mask-Adapter, Li et al., CVPR 2025,
section 3.2).

Legend: B images, N masks of H x W, D embedding size, C channels of CLIP's last stage, h x w its grid, W width, K maps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from twostage.clip.towers.convnext import dense_embeddings
from twostage.clip.towers.vit import Tower
from twostage.inference.rows import run_mlps_by_rows
from twostage.norms import ChannelLayerNorm, DecayedLayerNorm
from twostage.systems.two_stage.heads import DenseCLIP

# Grid cells of the masks, resized, to one of CLIP's last stage, both ways.
_FINER = 4


class MaskMaps(nn.Module):
    """K maps of every mask, from the mask and CLIP's dense embeddings.

    Every mask goes through it on its own, so they can go in chunks. What all masks of an image share, the projection of the
    dense embeddings, is computed once for them; the published form makes the embeddings of each mask, adds the dense ones
    and projects the sum, which is the same.
    """

    def __init__(self, *, embedding: int, width: int, mask_channels: int, maps: int, blocks: int) -> None:
        """
        Args:
            embedding, width, maps: D, W and K.
        """
        super().__init__()
        half = mask_channels // 4
        self.mask_encoder = nn.Sequential(
            nn.Conv2d(1, half, kernel_size=3, stride=2, padding=1),
            ChannelLayerNorm(half),
            nn.GELU(),
            nn.Conv2d(half, mask_channels, kernel_size=3, stride=2, padding=1),
            ChannelLayerNorm(mask_channels),
            nn.GELU(),
        )
        self.mask_proj = nn.Conv2d(mask_channels, embedding, kernel_size=1)
        self.fuse = nn.Conv2d(embedding, width, kernel_size=1)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(width, ls_init_value=1e-6, norm_layer=DecayedLayerNorm) for _ in range(blocks)
        )
        run_mlps_by_rows(self.blocks)
        self.norm = nn.LayerNorm(width)
        self.final = nn.Conv2d(width, maps, kernel_size=1)

    def shared(self, dense: Tensor) -> Tensor:
        """What all masks of an image share, `[B, W, h, w]`, from dense embeddings `[B, D, h, w]`."""
        bias = self.mask_proj.bias
        assert bias is not None
        return self.fuse(dense + bias[:, None, None])

    def forward(self, shared: Tensor, masks: Tensor) -> Tensor:
        """Maps `[B, N, K, h, w]` of masks `[B, N, H, W]`, bool or soft, of any size."""
        height, width = shared.shape[-2:]
        batch = masks.shape[:2]
        masks = F.interpolate(
            masks.to(shared.dtype), size=(_FINER * height, _FINER * width), mode="bilinear", align_corners=False
        )
        x = F.conv2d(self.mask_encoder(masks.flatten(0, 1)[:, None]), self._fused_projection())
        x = (x.unflatten(0, batch) + shared[:, None]).flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.final(x).unflatten(0, batch)

    def _fused_projection(self) -> Tensor:
        """Both 1x1 convolutions behind the mask encoder as one, `[W, channels, 1, 1]`."""
        return (self.fuse.weight.flatten(1) @ self.mask_proj.weight.flatten(1))[..., None, None]


def adapted_embeddings(adapter: MaskMaps, visual: Tower, dense: DenseCLIP, masks: Tensor, chunk: int = 0) -> Tensor:
    """CLIP embeddings `[B, N, D]` of masks `[B, N, H, W]`, not of unit length: means over their maps.

    Args:
        chunk: masks that go through the adapter at a time, which bounds the memory; 0 for all.
    """
    shared = adapter.shared(dense.embeddings)
    parts = [
        pooled_by_maps(visual, dense.res5, adapter(shared, part))
        for part in masks.split(chunk or masks.shape[1], dim=1)
    ]
    return torch.cat(parts, dim=1)


def pooled_by_maps(visual: Tower, res5: Tensor, maps: Tensor) -> Tensor:
    """`[B, N, D]`: `res5` `[B, C, h, w]` pooled by each of the maps `[B, N, K, h, w]`, embedded, then averaged over K."""
    weights = map_weights(maps.flatten(1, 2))
    pooled = weights @ res5.flatten(2).mT
    embedded = dense_embeddings(visual, pooled.mT[..., None])[..., 0].mT
    return embedded.unflatten(1, maps.shape[1:3]).mean(dim=2)


def map_weights(maps: Tensor) -> Tensor:
    """Weights `[..., h * w]` of maps `[..., h, w]`, which add up to one, padded cells among them."""
    return F.logsigmoid(maps.flatten(-2)).softmax(dim=-1)
