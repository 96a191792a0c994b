"""The samples of deformable attention as one gather, which is how a CPU is quick at them.

Legend: B images, S' tokens that look, M heads, D their width, L levels, P points; `deformable_attention` has the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows and columns of zeros around a level: one before it, and two behind, for the lower right corner of a point on the border.
_BORDER = 3
# Tokens whose corners are held at a time.
_QUERIES = 2048


def sample_by_gathering(
    value: Tensor, grids: Sequence[tuple[int, int]], locations: tuple[Tensor, Tensor], logits: Tensor
) -> Tensor:
    """`sample_levels` as one weighted gather of the four corners of every point; the samples are never held."""
    heads, depth = value.shape[2:]
    table = torch.cat(
        [
            _with_border(v.unflatten(1, g))
            for v, g in zip(value.split([h * w for h, w in grids], dim=1), grids, strict=True)
        ],
        dim=1,
    )
    places = _Places.of(grids, table.shape[:3], logits.shape[-1], logits)
    parts = []
    for start in range(0, logits.shape[1], _QUERIES):
        x, y, part = (t[:, start : start + _QUERIES].flatten(2) for t in (*locations, logits))
        rows, shares = _corners(x, y, _softmax(part.unflatten(2, (heads, -1))).flatten(2), places, heads)
        parts.append(
            F.embedding_bag(
                rows.flatten(0, 2), table.view(-1, depth), mode="sum", per_sample_weights=shares.flatten(0, 2)
            ).view(len(value), -1, heads * depth)
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class _Places(NamedTuple):
    """What the corners of points are found by, for all points of a token, head by head: `[M * L * P]`.

    Attributes:
        width, height: of the point's level.
        first: row of the table of the level's upper left corner and the point's head, `[B, 1, M * L * P]`.
        below: rows of the table from a place to the one below it.
    """

    width: Tensor
    height: Tensor
    first: Tensor
    below: Tensor

    @classmethod
    def of(cls, grids: Sequence[tuple[int, int]], table: torch.Size, points: int, like: Tensor) -> _Places:
        """Of a table `[B, places, M]`."""
        batch, places, heads = table
        whole = torch.int32 if table.numel() < 2**31 else torch.int64

        def per_point(of_levels: Sequence[int], dtype: torch.dtype) -> Tensor:
            levels = torch.tensor(of_levels, dtype=dtype, device=like.device)
            return levels[None, :, None].expand(heads, len(grids), points).flatten()

        heights, widths = zip(*grids, strict=True)
        pitches = [width + _BORDER for width in widths]
        starts = accumulate(((h + _BORDER) * p for h, p in zip(heights, pitches, strict=True)), initial=0)
        corners = [start + pitch + 1 for start, pitch in zip(starts, pitches, strict=False)]
        head = torch.arange(heads, dtype=whole, device=like.device).repeat_interleave(len(grids) * points)
        image = torch.arange(batch, dtype=whole, device=like.device)[:, None, None] * (places * heads)
        return cls(
            width=per_point(widths, like.dtype),
            height=per_point(heights, like.dtype),
            first=per_point(corners, whole) * heads + head + image,
            below=per_point(pitches, whole) * heads,
        )


def _with_border(maps: Tensor) -> Tensor:
    """`[B, h, w, M, D]` between a row and column of zeros before and two behind, flat: what lies outside is zero."""
    return F.pad(maps, (0, 0, 0, 0, 1, 2, 1, 2)).flatten(1, 2)


def _softmax(logits: Tensor) -> Tensor:
    """Over the last dimension; of a dozen numbers, for which torch's own takes five times as long on a CPU."""
    powers = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def _corners(x: Tensor, y: Tensor, weights: Tensor, places: _Places, heads: int) -> tuple[Tensor, Tensor]:
    """Rows of the table and their shares, both `[B, s, M, 4 * L * P]`, from `[B, s, M * L * P]`."""
    # A place that is further outside than the border has nothing in it, like the border.
    x = (x * places.width - 0.5).clamp(min=-1).minimum(places.width)
    y = (y * places.height - 0.5).clamp(min=-1).minimum(places.height)
    left, top = x.floor(), y.floor()
    low = weights * (y - top)
    high = weights - low
    high_right, low_right = high * (x - left), low * (x - left)
    whole = places.first.dtype
    upper = top.to(whole) * places.below + left.to(whole) * heads + places.first
    lower = upper + places.below
    rows = (upper, upper + heads, lower, lower + heads)
    shares = (high - high_right, high_right, low - low_right, low_right)
    both = [torch.stack([t.unflatten(2, (heads, -1)) for t in corners], dim=3).flatten(3) for corners in (rows, shares)]
    return both[0], both[1]
