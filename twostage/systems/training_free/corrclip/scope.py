"""Which patches attend to which: those of one region, regions that look alike being one (Zhang et al., ICCV 2025, section 3).

The lowest value of a window's label map means "in no region", also where the window shows nothing but regions; so it is in
the released code. Patches in no region attend, and are attended to, where they are more alike than the mean.

Legend: n = h * w patches, C channels, R regions.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import connected_components
from torch import Tensor


def region_distances(unit: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How unlike regions are, `[R, R]`, and which region of 0..R each patch is in, int64 `[n]`, 0 for none.

    Distance: the largest cosine of two regions' mean features less the two regions' own.

    Args:
        unit: unit features `[n, C]` of the patches.
        labels: int64 `[n]`.
    """
    _, index = labels.unique(return_inverse=True)
    member = F.one_hot(index)[:, 1:].to(unit.dtype)
    means = F.normalize((member.T @ unit) / member.sum(dim=0)[:, None], dim=1)
    cosines = means @ means.T
    return cosines.max() - cosines if len(means) else cosines, index


def merge_regions(unit: Tensor, labels: Tensor, *, distance: float) -> Tensor:
    """Regions `[n]` (0 for none) after those that are at most `distance` apart, or linked by such, have become one.

    The published clustering is DBSCAN where one sample is enough, which is connected components.
    """
    distances, index = region_distances(unit, labels)
    if len(distances) < 2:
        return index
    near = (distances <= distance).cpu().numpy()
    _, cluster = connected_components(near, directed=False)
    table = torch.from_numpy(np.concatenate([[0], 1 + cluster.astype(np.int64)])).to(index.device)
    return table[index]


def scoped_attention(cosines: Tensor, first: int, *, regions: Tensor, mean: Tensor, factor: float) -> Tensor:
    """Attention `[B, m, n]` of cosines `[B, m, n]`, one for all heads; in place.

    Args:
        first: which patch the first row is.
        regions: int64 `[B, n]`, 0 for none.
        mean: of all cosines, `[B, 1, 1]`.
        factor: of the cosines in the softmax.
    """
    own = regions[:, first : first + cosines.shape[1], None]
    others = regions[:, None]
    loose = (own == 0) | (others == 0)
    allowed = torch.where(loose, cosines > mean, own == others)
    return cosines.mul_(factor).masked_fill_(~allowed, float("-inf")).softmax(dim=-1)


def majority_labels(labels: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """`labels` int64 `[H, W]` with every mask in its most frequent one, the smallest of those that are equally frequent.

    Args:
        masks: int64 `[H, W]`; its lowest value is no mask, and stays as it is.
    """
    _, index = masks.unique(return_inverse=True)
    counts = torch.bincount((index * num_classes + labels).flatten(), minlength=int(index.max() + 1) * num_classes)
    best = counts.view(-1, num_classes).argmax(dim=1)
    return torch.where(index == 0, labels, best[index])
