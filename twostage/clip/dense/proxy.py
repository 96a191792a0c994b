"""Dense CLIP features whose last block attends by affinities that come from elsewhere (ProxyCLIP and those after it).

The last block's values, one patch at a time (MaskCLIP's path), are resized to the grid of the affinities and mixed by one
matrix A for all heads; W(A v), without residual and MLP, goes on to CLIP's embedding space. So the output has the
affinities' resolution, which may be finer than CLIP's. A is made some rows at a time and never held whole.

Legend: B images, h x w the affinities' grid, n = h * w, C channels of the features that affinities are
made of, W CLIP's width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.dense.tower import DenseFeatures, DenseTower
from twostage.clip.keys import PositionRule
from twostage.clip.towers.vit import Tokens, Tower, merge_heads, project_qkv, run_blocks

# Normalised images [B, 3, H, W] and CLIP's tokens in front of its last block -> features [B, C, h, w].
AffinityFeatures = Callable[[Tensor, Tokens], Tensor]
# Cosines [B, m, n] of m patches, the first of which is the given one, with all n -> their rows of the attention.
Attention = Callable[[Tensor, int], Tensor]
# Numbers of a block of rows.
_BLOCK = 1 << 21


def own_features(images: Tensor, tokens: Tokens) -> Tensor:
    """CLIP's own patches in front of its last block, `[B, W, h, w]`: an affinity without a second model."""
    return tokens.patch_map


def unit_patches(features: Tensor) -> Tensor:
    """Features `[B, C, h, w]` as unit vectors `[B, n, C]`."""
    return F.normalize(features.flatten(2), dim=1).transpose(1, 2)


def cosine_similarity(features: Tensor) -> Tensor:
    """Cosines `[B, n, n]` of the features `[B, C, h, w]` of an image's patches."""
    unit = unit_patches(features)
    return unit @ unit.transpose(1, 2)


def mean_cosine(unit: Tensor) -> Tensor:
    """Mean `[B, 1, 1]` of all cosines of unit vectors `[B, n, C]`: the square of their mean, so no pair is looked at."""
    return unit.mean(dim=1).square().sum(dim=-1)[:, None, None]


def proxy_attention(
    similarity: Tensor, first: int = 0, *, beta: float, gamma: float, mean: Tensor | None = None
) -> Tensor:
    """ProxyCLIP's attention (Lan et al., ECCV 2024, section 3.3) of cosines `[B, m, n]`, one for all heads; in place.

    softmax(gamma * (S - beta * mean S)) over what is not negative; the mean is the image's, the diagonal included. A patch
    always attends to itself, also where features are so alike that beta * mean S exceeds 1.

    Args:
        first: which patch the first row is.
        mean: of all cosines, `[B or 1, 1, 1]`; None: of these, which are all there are.
    """
    mean = similarity.mean(dim=(1, 2), keepdim=True) if mean is None else mean
    shifted = similarity - beta * mean
    masked = shifted < 0
    # No view of the diagonal is filled: such a step has no place in an exported network.
    places = [torch.arange(length, device=masked.device) for length in similarity.shape[1:]]
    masked &= (places[0] + first)[:, None] != places[1]
    return shifted.mul_(gamma).masked_fill_(masked, float("-inf")).softmax(dim=-1)


class ProxyTower(DenseTower):
    """Reads dense features off CLIP's image tower by affinities from elsewhere."""

    def __init__(
        self,
        *,
        visual: Tower,
        features: AffinityFeatures,
        beta: float,
        gamma: float,
        multiple: int,
        position_rule: PositionRule = "scale",
    ) -> None:
        """
        Args:
            features: what affinities are made of.
            beta, gamma: see `proxy_attention`.
            multiple: side in pixels that padded windows are a multiple of.
        """
        super().__init__(visual=visual, method="vanilla", position_rule=position_rule)
        self.features = features
        self.beta, self.gamma = beta, gamma
        self.multiple = multiple

    @property
    def window_multiple(self) -> tuple[int, int]:
        """(height, width) that padded windows are a multiple of."""
        return self.multiple, self.multiple

    def __call__(self, images: Tensor) -> DenseFeatures:
        """Dense features of normalised images `[B, 3, H, W]`."""
        tokens, _ = run_blocks(self.blocks[:-1], self.embed(images))
        features = self.features(images, tokens)
        grid = (features.shape[2], features.shape[3])
        x = self.attend(tokens, features, together=False)
        return DenseFeatures(self.project(Tokens(x, grid, class_tokens=0)).patch_map, None, None)

    def attend(self, tokens: Tokens, features: Tensor, *, together: bool) -> Tensor:
        """Output `[B, n, W]` of the last block by the affinities of `features` `[B, C, h, w]`.

        Args:
            tokens: in front of the block.
            together: the mean cosine is that of all images, not each its own (Trident).
        """
        unit = unit_patches(features)
        mean = mean_cosine(unit)
        if together:
            mean = mean.mean(dim=0, keepdim=True)
        attention = partial(proxy_attention, beta=self.beta, gamma=self.gamma, mean=mean)
        block = self.blocks[-1]
        grid = (features.shape[2], features.shape[3])
        return block.attn.out_proj(mix(unit, patch_values(block, tokens, grid), attention))


def patch_values(block: Any, tokens: Tokens, grid: tuple[int, int]) -> Tensor:
    """Values `[B, n, W]` of CLIP's `block`, heads side by side, on `grid`; the class token is not seen."""
    (v,) = project_qkv(block.attn, block.ln_1(tokens.x), "v")
    values = resize_map(tokens._replace(x=merge_heads(v)).patch_map, grid)
    return values.flatten(2).transpose(1, 2)


def mix(unit: Tensor, values: Tensor, attention: Attention) -> Tensor:
    """A v `[B, n, W]` by the `attention` of the cosines of unit vectors `[B, n, C]`, a block of rows after the other."""
    count = unit.shape[1]
    step = max(1, _BLOCK // (len(unit) * count))
    rows = []
    for first in range(0, count, step):
        cosines = unit[:, first : first + step] @ unit.transpose(1, 2)
        rows.append(attention(cosines, first) @ values)
    return torch.cat(rows, dim=1)


def attend(block: Any, tokens: Tokens, attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """W(A v) `[B, n, W]` of CLIP's `block` with a whole `attention` `[B, n, n]` between the patches of `grid`.

    Args:
        tokens: in front of the block; the class token is not seen.
    """
    return block.attn.out_proj(attention @ patch_values(block, tokens, grid))


def resize_map(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bilinear resize of `[B, C, h, w]`, nothing where the size is right already."""
    if tuple(maps.shape[-2:]) == grid:
        return maps
    return F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)


def in_other_units(images: Tensor, *, mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> Tensor:
    """Normalised images `[B, 3, H, W]` in the units of another network; statistics are `[3, 1, 1]` on 0..255.

    Padding, which is 0 here, becomes the mean colour, as in the released code.
    """
    return images * (std / other_std) + (mean - other_mean) / other_std
