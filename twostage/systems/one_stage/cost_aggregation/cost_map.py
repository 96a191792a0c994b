"""The cost map: cosine similarity of every pixel's image embedding with every class, one channel per prompt template.

CAT-Seg (Cho et al., CVPR 2024, section 3.2); SED (Xie et al., CVPR 2024, section 3.2).

Legend: B images, T classes, P templates, D embedding size, h x w grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.inference.precision import in_float32


def cost_map(embeddings: Tensor, text: Tensor, correlated: Tensor | None = None) -> Tensor:
    """float32 `[B, T, P, h, w]`, without CLIP's logit scale; with `correlated` `[B, T, 2 P, h, w]`.

    Args:
        embeddings: image embeddings `[B, D, h, w]`, normalised here.
        text: text embeddings `[T, P, D]`, normalised here.
        correlated: a second set of image embeddings (see `variants/image_correlation.py`), whose costs come behind.
    """
    if correlated is not None:
        return torch.cat([cost_map(embeddings, text), cost_map(correlated, text)], dim=2)
    # Classes differ by less than bfloat16 can tell.
    with in_float32(text.device):
        pixels = F.normalize(embeddings.float(), dim=1).flatten(2)
        flat = F.normalize(text.float(), dim=-1).flatten(0, 1) @ pixels
    return flat.unflatten(1, text.shape[:2]).unflatten(3, embeddings.shape[2:])
