"""Which classes a class sees when it attends to look-alike names alone: those nearest to it in text.

The mask of `../softmax_attention.py`: the K nearest classes by cosine similarity of their text embeddings. Linear attention
(`../class_attention.py`) mixes all classes, which blurs what tells near names apart where the vocabulary is large.

Legend: T classes, D embedding size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nearest_classes(text: Tensor, count: int) -> Tensor:
    """Which classes each class reads, bool `[..., T, T]`: itself and the `count - 1` most similar ones.

    Args:
        text: text embeddings `[..., T, D]` of any length.
    """
    unit = F.normalize(text, dim=-1)
    similarity = unit @ unit.transpose(-1, -2)
    # A class stays its own neighbour also where another one has the same embedding.
    similarity.diagonal(dim1=-2, dim2=-1).fill_(float("inf"))
    chosen = similarity.topk(min(count, text.shape[-2]), dim=-1).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(-1, chosen, True)
