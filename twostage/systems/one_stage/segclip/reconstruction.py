"""SegCLIP's masked reconstruction: the pixels of hidden patches from the groups of the visible ones (section 3.3).

Legend: B images, N = 1 + L tokens (class token first), L patches, V visible patches, K centres, W width, P patch size.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from open_clip.transformer import ResidualAttentionBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from twostage.clip.towers.vit import Tokens, run_blocks
from twostage.systems.one_stage.segclip.semantic_layer import Grouping, initialise


class VisiblePatches(NamedTuple):
    """Which tokens the second pass sees.

    Attributes:
        tokens: `[B, V]`, numbers of the visible patches in random order (the class token is number 0).
        restore: `[B, N]`, where each token stands in the shuffled order (visible ones first).
        hidden: `[B, L]`, 1 for hidden patches, else 0.
    """

    tokens: Tensor
    restore: Tensor
    hidden: Tensor


def choose_visible(noise: Tensor, hidden_share: float) -> VisiblePatches:
    """Keep the tokens with the smallest `noise` `[B, N]`; the class token is always among the kept (MAE, section 3)."""
    count = noise.shape[1]
    kept = int(count * (1 - hidden_share))
    noise = noise.index_fill(1, torch.zeros(1, dtype=torch.int64, device=noise.device), -1)
    order = noise.argsort(dim=1)
    restore = order.argsort(dim=1)
    return VisiblePatches(order[:, 1:kept], restore, (restore[:, 1:] >= kept).to(noise.dtype))


class MaskedReconstruction(nn.Module):
    """From the groups of the visible patches back to these patches, then to the pixels of all patches."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        num_centres: int,
        activation: type[nn.Module],
        grid: tuple[int, int],
        patch_size: int,
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
    ) -> None:
        """
        Args:
            activation: of CLIP's own blocks.
            grid: patches of a training image.
        """
        super().__init__()
        self.patch_size = patch_size
        self.mixing = nn.Linear(num_centres, num_centres)
        self.activation = activation()
        self.blocks = nn.ModuleList(ResidualAttentionBlock(width, heads, act_layer=activation) for _ in range(2))
        initialise(self)
        self.decoder = PixelReconstructor(
            width=width,
            grid=grid,
            patch_size=patch_size,
            decoder_width=decoder_width,
            depth=decoder_depth,
            heads=decoder_heads,
        )

    def forward(self, grouping: Grouping, restore: Tensor) -> Tensor:
        """Pixels `[B, L, 3 P P]` of all patches, normalised like the image, from the groups of the visible ones."""
        patches = self.activation(self.mixing(grouping.hard.mT) @ grouping.tokens)
        patches = run_blocks(self.blocks, Tokens(patches, (1, patches.shape[1])))[0].x
        return self.decoder(torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1), restore)

    def loss(self, predicted: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
        """Mean squared error of `predicted` `[B, L, 3 P P]` over the hidden patches of `images` `[B, 3, H, W]`."""
        error = (predicted - patch_pixels(images, self.patch_size)).square().mean(dim=2)
        return (error * hidden).sum() / hidden.sum()


class PixelReconstructor(nn.Module):
    """A small transformer on visible tokens and mask tokens (MAE, section 3)."""

    positions: Tensor

    def __init__(
        self, *, width: int, grid: tuple[int, int], patch_size: int, decoder_width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_width))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(decoder_width, heads, mlp_ratio=4, qkv_bias=True, norm_layer=norm) for _ in range(depth)
        )
        self.norm = norm(decoder_width)
        self.pred = nn.Linear(decoder_width, 3 * patch_size**2)
        initialise(self)
        nn.init.normal_(self.mask_token, std=0.02)
        positions = torch.cat([torch.zeros(1, decoder_width), sine_positions(grid, decoder_width)])
        # A constant, which official files hold and ours need not.
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, visible: Tensor, restore: Tensor) -> Tensor:
        """Pixels `[B, L, 3 P P]` from the visible tokens `[B, 1 + V, W]`, the class position's first."""
        x = self.embed(visible)
        masks = self.mask_token.expand(len(x), restore.shape[1] - x.shape[1], -1)
        x = torch.cat([x, masks], dim=1)
        x = x.gather(1, restore[..., None].expand(-1, -1, x.shape[2])) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.pred(self.norm(x))[:, 1:]


def sine_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed position embedding `[h * w, width]`: sines and cosines of x in the first half of the channels, of y behind."""
    frequencies = 10000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()


def patch_pixels(images: Tensor, patch_size: int) -> Tensor:
    """Pixels `[B, L, 3 P P]` of the patches of `images` `[B, 3, H, W]`, each in the order row, column, channel."""
    x = images.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
