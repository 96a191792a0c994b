"""What CLIP-DINOiser learnt: which patches belong together, and which are background, from CLIP's own middle layer.

Wysoczanska et al., ECCV 2024, sections 3.2 and 3.3. The teachers, DINO and FOUND, are needed in training only.

Legend: B windows, h x w patches, n = h * w, W CLIP's width, D its embedding size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.clip.towers.vit import Block, merge_heads, project_qkv

# Which block from behind is read, and where in it: behind the layer norm of its MLP.
TAPPED_BLOCK = -3
_EPSILON = 1e-6


class GuideHead(nn.Module):
    """Reads `[B, W, h, w]` of the tapped layer."""

    def __init__(self, *, clip_width: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(clip_width, width, 3, padding=1, padding_mode="replicate")
        self.background = nn.Conv2d(clip_width, 1, 1)

    def correlations(self, tapped: Tensor) -> Tensor:
        """Cosines `[B, n, n]` of the patches."""
        unit = F.normalize(self.embed(tapped).flatten(2), dim=1)
        return unit.transpose(1, 2) @ unit

    def background_logits(self, tapped: Tensor) -> Tensor:
        """`[B, 1, h, w]`; foreground where positive."""
        return self.background(F.normalize(tapped, dim=1))


def run_tapped_block(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
    """One block of CLIP on tokens `[B, N, W]`: its output and what its MLP takes in."""
    q, k, v = project_qkv(block.attn, block.ln_1(x))
    x = x + block.ls_1(block.attn.out_proj(merge_heads(F.scaled_dot_product_attention(q, k, v))))
    tapped = block.ln_2(x)
    return x + block.ls_2(block.mlp(tapped)), tapped


def pool(features: Tensor, correlations: Tensor, gamma: float) -> Tensor:
    """Features `[B, D, h, w]` averaged over the patches that correlate by at least `gamma`, weighted by how much."""
    weights = torch.where(correlations < gamma, 0.0, correlations)
    weights = weights / (weights.sum(dim=2, keepdim=True) + _EPSILON)
    pooled = weights @ features.flatten(2).transpose(1, 2)
    return pooled.transpose(1, 2).unflatten(2, features.shape[-2:])
