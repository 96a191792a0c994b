"""From CLIP's words to DINOv2's patches, and what the heads' attention says of the background.

Barsellotti et al., ICCV 2025, sections 3.2 and 3.4.

Legend: B windows, C classes, n patches, H heads, W the image tower's width, D CLIP's embedding size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.foundation.vit import FoundationVit

_EPSILON = 1e-6


class WordProjection(nn.Module):
    """Text embeddings `[C, D]`, as long as CLIP makes them, to unit vectors `[C, W]`."""

    def __init__(self, *, text_width: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(text_width, width)
        self.output = nn.Linear(width, width)

    def forward(self, text: Tensor) -> Tensor:
        return F.normalize(self.output(self.hidden(text).tanh()), dim=-1, eps=_EPSILON)


def features_and_attention(tower: FoundationVit, images: Tensor) -> tuple[Tensor, Tensor]:
    """Normed patches `[B, W, h, w]`, and how the class token attends to them before the softmax, `[B, H, n]`."""
    x, grid = tower.last_input(images)
    heads = tower.shape.heads
    queries, keys, _ = tower.last_qkv(x).unflatten(2, (3, heads, -1)).unbind(dim=2)
    of_class = queries[:, 0] * queries.shape[-1] ** -0.5
    attention = torch.einsum("bhd,bnhd->bhn", of_class, keys[:, tower.prefix_tokens :])
    return tower.patch_map(tower.norm(tower.blocks[-1](x)), grid), attention


def clean_background(scores: Tensor, features: Tensor, attention: Tensor, text: Tensor, share: float) -> Tensor:
    """Scores `[C, h, w]` of one window, raised where the heads that look at a class attend.

    Each head is what it attends to, a mean of `features` `[W, h, w]`; a class takes the mean of the heads' maps, weighted
    by their likeness to it, put into the range of the scores. As released: no temperature, minimum and maximum are those of
    all classes together, and the maximum that is divided by is the one before the minimum was taken off.

    Args:
        attention: of the class token, before the softmax, `[H, n]`.
        text: unit rows `[C, W]`.
        share: of these maps in the result, against 1 of the scores.
    """
    heads = F.normalize(attention @ features.flatten(1).T, dim=-1)
    weights = (text @ heads.T).softmax(dim=-1)
    maps = (weights @ attention).softmax(dim=-1)
    maps = (maps - maps.min()) / maps.max()
    maps = maps * (scores.max() - scores.min()) + scores.min()
    return (scores + share * maps.view_as(scores)) / (1 + share)
