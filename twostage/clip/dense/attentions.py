"""Dense CLIP features by another attention in the last block: what training-free methods differ in.

Every block before the last is plain CLIP. In the last one, y = ln_1(x), q, k, v are y's projections per head, s = 1 / sqrt(d):

| attention     | matrix A                                  | output    | paper                                             |
|---------------|-------------------------------------------|-----------|---------------------------------------------------|
| vanilla       | softmax(s q k^T)                          | full      | CLIP (Radford et al., ICML 2021)                  |
| maskclip      | identity                                  | full      | MaskCLIP (Zhou et al., ECCV 2022, section 3.2)    |
| sclip         | softmax(s q q^T) + softmax(s k k^T)       | full      | SCLIP (Wang et al., ECCV 2024, section 3.2)       |
| naclip        | softmax(s k k^T + G)                      | reduced   | NACLIP (Hajimiri et al., WACV 2025, section 4)    |
| key_key       | softmax(s k k^T)                          | reduced   | NACLIP, ablation                                  |
| neighbourhood | softmax(c G)                              | reduced   | NACLIP, ablation                                  |
| clearclip     | softmax(s q q^T)                          | reduced   | ClearCLIP (Lan et al., ECCV 2024, section 3.3)    |

The full output is the block's own, x' = x + W(A v), x' + MLP(ln_2 x'); the reduced one is W(A v) alone, without residual
and MLP. The table's column is the published choice; both go with every attention. G is `neighbourhood_bias`; c is s times
the mean of |q_i| |k_j| over heads and pairs of tokens. CLIP Surgery and GEM change several blocks: `two_path.py`.

Legend: B images, N tokens (class token first where the tower has one), h x w patches, H heads, d head width, W width,
D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.keys import Attention
from twostage.clip.towers.vit import Block, finish_block, merge_heads, project_qkv

# Attentions whose published output keeps residual and MLP.
FULL_ATTENTIONS = ("vanilla", "maskclip", "sclip")

# Gives the additive bias [N, N] of the patch grid; called only where the attention needs it.
Bias = Callable[[], Tensor]


def last_block(block: Block, x: Tensor, *, attention: Attention, full: bool, bias: Bias) -> Tensor:
    """Output `[B, N, W]` of CLIP's last block on tokens `x` `[B, N, W]`, with `attention` (see the table above).

    Args:
        full: keep residual and MLP.
        bias: makes `neighbourhood_bias` of the patch grid.
    """
    parts = {"maskclip": "v", "clearclip": "qv", "key_key": "kv", "naclip": "kv"}.get(attention, "qkv")
    projected = dict(zip(parts, project_qkv(block.attn, block.ln_1(x), parts), strict=True))
    attended = merge_heads(weigh_values(attention, projected, bias))
    return finish_block(block, x, attended) if full else block.attn.out_proj(attended)


def weigh_values(attention: Attention, projected: dict[str, Tensor], bias: Bias) -> Tensor:
    """A v `[B, H, N, d]` from the projections "q", "k", "v" (those that the attention needs), each `[B, H, N, d]`."""
    v = projected["v"]
    if attention == "maskclip":
        return v
    if attention == "neighbourhood":
        return _neighbourhood_only(projected["q"], projected["k"], v, bias())
    if attention == "sclip":
        q, k = projected["q"], projected["k"]
        return F.scaled_dot_product_attention(q, q, v) + F.scaled_dot_product_attention(k, k, v)
    if attention == "naclip":
        return F.scaled_dot_product_attention(projected["k"], projected["k"], v, attn_mask=bias())
    if attention == "key_key":
        return F.scaled_dot_product_attention(projected["k"], projected["k"], v)
    if attention == "clearclip":
        return F.scaled_dot_product_attention(projected["q"], projected["q"], v)
    return F.scaled_dot_product_attention(projected["q"], projected["k"], v)


def _neighbourhood_only(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    # The mean over pairs of a product is the product of the means.
    strength = (q.norm(dim=-1).mean(dim=-1) * k.norm(dim=-1).mean(dim=-1)).mean(dim=-1) * q.shape[-1] ** -0.5
    return (strength[:, None, None] * bias).softmax(dim=-1)[:, None] @ v


def neighbourhood_bias(
    grid: tuple[int, int], std: float, *, class_token: bool = True, device: torch.device | str = "cpu"
) -> Tensor:
    """NACLIP's additive bias G `[N, N]`: a Gaussian of the distance between two patches, with peak 1 (section 4.2).

    Row and column of the class token are 0: neither boosted nor masked.

    Args:
        grid: patches `(h, w)`.
        std: standard deviation in patches.
    """
    rows, columns = (_gaussian(side, std, device) for side in grid)
    # The Kronecker product, in steps that can be traced for any grid.
    bias = (rows[:, None, :, None] * columns[None, :, None, :]).flatten(2).flatten(0, 1)
    return F.pad(bias, (1, 0, 1, 0)) if class_token else bias


def _gaussian(side: int, std: float, device: torch.device | str) -> Tensor:
    """exp(-(i - j)^2 / (2 std^2)) `[side, side]`."""
    at = torch.arange(side, dtype=torch.float32, device=device)
    return torch.exp(-((at[:, None] - at[None]) ** 2) / (2 * std**2))
