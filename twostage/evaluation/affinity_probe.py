"""What borrowed affinities are worth on labelled pictures: how much of a patch's attention stays in its own region, and what
dense CLIP would reach if all of it did.

Analysis only: the true labels used here are never seen by a system.

Legend: n = h * w patches of the affinities' grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.dense.proxy import cosine_similarity, proxy_attention

Entry = dict[str, Any]


class Purity(NamedTuple):
    """Means over patches, in percent.

    Attributes:
        inside: share of the attention that falls on patches of the same label.
        by_chance: the same if attention were even over the picture.
    """

    inside: float
    by_chance: float


@torch.no_grad()
def attention_purity(model: Any, entries: Iterable[Entry]) -> Purity:
    """Of ProxyCLIP's attention over whole pictures.

    Args:
        model: a `ProxyClip`.
        entries: of a batch, with `image` and label map `sem_seg` int64 of the same size.
    """
    inside, even, count = 0.0, 0.0, 0
    tower = model.proxy_tower
    for entry in entries:
        images = model.preprocess([entry]).tensor
        features = tower.features(images, tower.before_last(images))
        attention = proxy_attention(cosine_similarity(features), beta=tower.beta, gamma=tower.gamma)[0]
        labels = at_grid(entry["sem_seg"], (features.shape[2], features.shape[3])).flatten()
        same = (labels[:, None] == labels).float()
        inside += float((attention * same).sum())
        even += float(same.mean(dim=1).sum())
        count += len(labels)
    return Purity(100 * inside / count, 100 * even / count)


def true_features(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features `[1, C, h, w]` whose cosines are 1 within a label and 0 elsewhere."""
    return F.one_hot(at_grid(labels, grid)).permute(2, 0, 1)[None].float()


def at_grid(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """A label map int64 `[H, W]` on a grid `[h, w]`: what is in the middle of each cell."""
    return F.interpolate(labels[None, None].double(), size=grid, mode="nearest-exact")[0, 0].long()
