"""Features of a whole picture mixed by SAM's last attention, where its values agree (Trident, Shi et al., ICCV 2025).

Per head, attention is kept where the cosine of two tokens' values exceeds a threshold of the row; heads are averaged and
rows made to sum to 1. That matrix is made a few rows at a time.

Legend: H heads, d channels of a head, h x w the part of SAM's grid that shows the picture, n = h * w, W channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.dense.proxy import resize_map
from twostage.foundation.sam import row_blocks

# Attention of a head, from the tokens of the grid's rows: `[rows * w, n]`.
AttentionRows = Callable[[int, slice], Tensor]
# Thresholds above this would let a token see nobody but itself; negative ones are replaced by the second where they are
# not wanted.
_HIGHEST = 0.9
_INSTEAD_OF_NEGATIVE = 0.6


def limited(thresholds: Tensor, *, keeps_negative: bool) -> Tensor:
    """Thresholds `[n]` within their limits."""
    if not keeps_negative:
        thresholds = thresholds.masked_fill(thresholds < 0, _INSTEAD_OF_NEGATIVE)
    return thresholds.clamp(max=_HIGHEST)


def value_cosines(unit: Tensor, rows: slice, width: int) -> Tensor:
    """Cosines `[H, rows * w, n]` of the tokens of the grid's rows with all, of unit values `[H, n, d]`."""
    return unit[:, rows.start * width : rows.stop * width] @ unit.transpose(1, 2)


def row_thresholds(cosines: Tensor, factor: float) -> Tensor:
    """`factor` times the mean of each row of `cosines` `[H, m, n]`, over heads as well: `[m]`."""
    return factor * cosines.mean(dim=0).mean(dim=1)


def weight_rows(
    unit: Tensor, attention: AttentionRows, rows: slice, width: int, *, factor: float, keeps_negative: bool
) -> Tensor:
    """Rows `[rows * w, n]` of the matrix; arguments as in `aggregate`, with unit values `[H, n, d]` and the grid's w."""
    cosines = value_cosines(unit, rows, width)
    thresholds = limited(row_thresholds(cosines, factor), keeps_negative=keeps_negative)
    total = torch.zeros_like(cosines[0])
    for head, kept in enumerate(cosines > thresholds[:, None]):
        total += attention(head, rows) * kept
    return total / total.sum(dim=1, keepdim=True)


def aggregate(maps: Tensor, values: Tensor, attention: AttentionRows, *, factor: float, keeps_negative: bool) -> Tensor:
    """A map `[W, h', w']` of a picture, resized to SAM's grid and mixed there: `[W, h, w]`.

    Args:
        values: of SAM's last block `[H, h, w, d]`.
        factor: of the mean cosine in the thresholds.
        keeps_negative: whether thresholds may be negative.
    """
    height, width = values.shape[1], values.shape[2]
    features = resize_map(maps[None], (height, width))[0].flatten(1).T
    unit = F.normalize(values.flatten(1, 2), dim=-1)
    mixed = [
        weight_rows(unit, attention, rows, width, factor=factor, keeps_negative=keeps_negative) @ features
        for rows in row_blocks(height)
    ]
    return torch.cat(mixed).T.unflatten(1, (height, width))
