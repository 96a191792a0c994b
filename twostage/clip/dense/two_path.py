"""Dense CLIP features by a second path through the last blocks: CLIP Surgery and GEM.

The original path runs on unchanged. From the split on, a new path starts as a copy and takes in each block only a
self-correlating attention of the *original* path's tokens, without MLP: x_new += W(o), y = ln_1(x_original).

- `clip_surgery` (Li et al., A Closer Look at the Explainability of CLIP, 2023, section 3.2): o = softmax(s v v^T) v.
- `gem` (Bousselham et al., Grounding Everything, CVPR 2024, section 3): o is the mean over z in {v, k, q} of
  softmax(t z' z'^T) v, where z' is z after T rounds of "unit length, then z <- softmax(t z z^T) z" and unit length again.
  t is s times the mean length of y's tokens, one value per image, unless it is given.

Legend: B images, N tokens, W width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.towers.vit import Block, Tokens, merge_heads, project_qkv, run_block

# (block, y = ln_1(tokens)) -> o, merged heads [B, N, W].
SelfCorrelation = Callable[[Block, Tensor], Tensor]


def run_two_paths(blocks: Sequence[Block], tokens: Tokens, correlate: SelfCorrelation) -> tuple[Tensor, Tensor]:
    """Tokens `[B, N, W]` of the original and of the new path after `blocks`, which start together at `tokens`."""
    original = new = tokens.x
    for block in blocks:
        new = new + block.attn.out_proj(correlate(block, block.ln_1(original)))
        original = run_block(block, original)
    return original, new


def clip_surgery(block: Block, y: Tensor) -> Tensor:
    """Value-value attention: `[B, N, W]`."""
    (v,) = project_qkv(block.attn, y, "v")
    return merge_heads(F.scaled_dot_product_attention(v, v, v))


def gem(block: Block, y: Tensor, *, iterations: int = 1, temperature: float | None = None) -> Tensor:
    """GEM's ensemble of self-self attentions: `[B, N, W]`; `temperature` None means one from the tokens' mean length."""
    projected = project_qkv(block.attn, y)
    v = projected[-1]
    if temperature is None:
        t = (y.norm(dim=-1).mean(dim=-1) * v.shape[-1] ** -0.5)[:, None, None, None]
    else:
        t = torch.full((), temperature, device=y.device, dtype=y.dtype)
    outputs = []
    for z in projected:
        for _ in range(iterations):
            z = F.normalize(z, dim=-1)
            z = F.scaled_dot_product_attention(t * z, z, z, scale=1.0)
        z = F.normalize(z, dim=-1)
        outputs.append(F.scaled_dot_product_attention(t * z, z, v, scale=1.0))
    return merge_heads(torch.stack(outputs).mean(dim=0))
