"""Sampling maps at points (PointRend, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["get_uncertain_point_coords_with_randomness", "point_sample"]


def point_sample(input: Tensor, point_coords: Tensor, **kwargs: Any) -> Tensor:
    """Values of `[N, C, H, W]` at points.

    Args:
        point_coords: (x, y) in [0, 1]: `[N, P, 2]`, or `[N, h, w, 2]`.
        kwargs: of `torch.nn.functional.grid_sample`.

    Returns:
        `[N, C, P]`, or `[N, C, h, w]`.
    """
    grid = 2.0 * point_coords - 1.0
    if point_coords.dim() == 3:
        return F.grid_sample(input, grid[:, :, None], **kwargs).squeeze(3)
    return F.grid_sample(input, grid, **kwargs)


def get_uncertain_point_coords_with_randomness(
    coarse_logits: Tensor,
    uncertainty_func: Callable[[Tensor], Tensor],
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
) -> Tensor:
    """Training points: the most uncertain of many random ones, and some more random ones.

    Args:
        coarse_logits: `[N, C, H, W]`.
        uncertainty_func: from logits `[N, C, P]` to uncertainty `[N, 1, P]`.
        oversample_ratio: candidates per point, at least 1.
        importance_sample_ratio: share of the points that are chosen by uncertainty.

    Returns:
        (x, y) in [0, 1], `[N, num_points, 2]`: the chosen ones first.
    """
    assert oversample_ratio >= 1, f"oversample_ratio must be at least 1, got {oversample_ratio}"
    assert 0 <= importance_sample_ratio <= 1, f"importance_sample_ratio lies in [0, 1], got {importance_sample_ratio}"
    count, device = len(coarse_logits), coarse_logits.device
    candidates = torch.rand(count, int(num_points * oversample_ratio), 2, device=device)
    uncertainty = uncertainty_func(point_sample(coarse_logits, candidates, align_corners=False))
    num_chosen = int(importance_sample_ratio * num_points)
    chosen = torch.topk(uncertainty[:, 0], k=num_chosen, dim=1).indices
    points = torch.gather(candidates, 1, chosen[:, :, None].expand(-1, -1, 2))
    if num_chosen == num_points:
        return points
    return torch.cat([points, torch.rand(count, num_points - num_chosen, 2, device=device)], dim=1)
