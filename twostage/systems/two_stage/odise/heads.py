"""What tells a mask's class: an embedding of the mask, compared with projected text embeddings (ODISE, Xu et al., CVPR
2023, section 3.5).

Legend: B images, Q masks, W width, E CLIP's embedding size, N names.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.clip.regions.mask_pooling import masks_on_grid, pool_masks
from twostage.proposals.mlp import MLP
from twostage.proposals.queries import MaskedQueries

_INITIAL_TEMPERATURE = 0.07


class MaskEmbedding(nn.Module):
    """Embeddings of masks: their queries and the mask features inside them. Holds the logit scale that they are used with."""

    def __init__(self, *, width: int, mask_width: int) -> None:
        """
        Args:
            width: W, channels of the queries.
            mask_width: channels of the mask features.
        """
        super().__init__()
        self.pool_proj = nn.Sequential(nn.LayerNorm(mask_width), nn.Linear(mask_width, width))
        self.mask_embed = nn.Sequential(nn.LayerNorm(width), MLP([width, width, width, width]))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / _INITIAL_TEMPERATURE)))

    def forward(self, output: MaskedQueries, mask_features: Tensor) -> Tensor:
        """`[B, Q, W]`, of any length, from a prediction and mask features `[B, C, h, w]` on the grid of its masks."""
        return self.mask_embed(self.pooled(output, mask_features))

    def pooled(self, output: MaskedQueries, mask_features: Tensor) -> Tensor:
        """Projected mask features inside the masks, added to the queries: `[B, Q, W]`."""
        masks = masks_on_grid(output.mask_logits, (mask_features.shape[2], mask_features.shape[3]))
        return self.pool_proj(pool_masks(mask_features, masks)) + output.queries


class TextHead(nn.Module):
    """Text embeddings in the space of mask embeddings.

    The label model also learns a null embedding, which lies in CLIP's space and takes the same way.
    """

    def __init__(self, *, embedding: int, width: int, null: Tensor | None = None) -> None:
        """
        Args:
            embedding, width: E and W.
            null: where the null embedding `[1, E]` starts; None: there is none.
        """
        super().__init__()
        self.text_proj = nn.Linear(embedding, width)
        self.null_embed = None if null is None else nn.Parameter(null.clone())

    def forward(self, names: Tensor) -> Tensor:
        """Unit rows `[N (+ 1), W]`, null last, from text embeddings `[N, E]` as CLIP gives them, not of unit length."""
        if self.null_embed is not None:
            names = torch.cat([names, self.null_embed])
        return F.normalize(self.text_proj(names), dim=-1)
