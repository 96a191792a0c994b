"""Class embeddings that look at the picture: content-dependent transfer (MAFT+, Jiao et al., ECCV 2024, section 3.3).

Legend: B images, N names (void among them), D embedding size, C channels of CLIP's last stage, h x w its grid.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from twostage.clip.towers.convnext import dense_embeddings
from twostage.clip.towers.vit import Tower
from twostage.proposals.position import sine_position_code
from twostage.proposals.transformer import attend

# Where the layer norm stands, see `Transfer`.
Form = Literal["semantic", "panoptic"]
# How the cells of CLIP's last stage are read, see `dense_clip`.
Cells = Literal["scrambled", "aligned"]


class Transfer(nn.Module):
    """Text embeddings `T` with what their attention to the picture finds, `a`.

    semantic: norm(T + linear(a)), of the length that the norm gives; panoptic: T + norm(linear(a)), which starts as T.
    Rows do not see each other, so a name's embedding does not depend on the other names.
    """

    def __init__(self, *, width: int, heads: int, form: Form) -> None:
        """
        Args:
            width: D.
        """
        super().__init__()
        self.form = form
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        nn.init.xavier_uniform_(self.attention.out_proj.weight)
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)
        if form == "panoptic":
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, names: Tensor, dense: Tensor) -> Tensor:
        """Embeddings `[B, N, D]`, not of unit length, from names `[N, D]` and dense embeddings `[B, D, h, w]`.

        Padded cells count as picture, as published.
        """
        batch, width, height, columns = dense.shape
        cells = dense.flatten(2).mT
        keys = cells + sine_position_code((height, columns), width, dense.device)
        queries = names.expand(batch, -1, -1)
        found = self.linear(attend(self.attention, queries, keys, cells))
        if self.form == "semantic":
            return self.norm(queries + found)
        return queries + self.norm(found)


def dense_clip(visual: Tower, res5: Tensor, cells: Cells) -> Tensor:
    """What CLIP's norm and projection make of every cell of `res5` `[B, C, h, w]`: `[B, D, h, w]`.

    aligned: cell by cell. scrambled: the numbers are read in the order of the memory as h * w rows of C, without the
    transposition that would make these rows cells; so each mixes some channels of many places. The published MAFT+ and
    Mask-Adapter do this, and their weights are trained with it.
    """
    if cells == "aligned":
        return dense_embeddings(visual, res5)
    batch, channels, height, width = res5.shape
    rows = res5.contiguous().view(batch, height * width, channels)
    return dense_embeddings(visual, rows.mT[..., None])[..., 0].unflatten(2, (height, width))
